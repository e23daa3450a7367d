"""More text to learn from: copies in which the parent has put words of its own.

A little text is soon learned by heart. A parent tells of any text what comes next, so it need not be one that somebody
wrote: some tokens are replaced by others that the parent holds likely there. What follows is predicted from these.
"""

from typing import Any

import torch
from torch import Tensor

from nas.data.dataset import Split

_BATCH = 8  # windows


@torch.no_grad()
def add_noisy_copies(parent: Any, split: Split, copies: int, share: float, seed: int) -> Split:
    """The windows and, behind them, copies of all of them with other noise each.

    Args:
        parent: a causal language model in eval mode.
        split: with `input_ids` (windows, length).
        copies: of each window.
        share: of the tokens that are replaced, each by one drawn from the parent's distribution after those before it
            in the window as it was written; the first token stays.
        seed: of what is drawn.

    Example:
        >>> more = add_noisy_copies(parent, split, copies=3, share=0.3, seed=0)
        >>> len(more) == 4 * len(split)
        True
    """
    if not copies:
        return split
    generator = torch.Generator().manual_seed(seed)
    drawn = [_draw(parent, windows["input_ids"], copies, generator) for windows in split.iterate_batches(_BATCH)]
    ids, others = split.inputs["input_ids"], torch.cat(drawn)
    noisy = [ids]
    for copy in range(copies):
        replaced = torch.rand(ids.shape, generator=generator) < share
        replaced[:, 0] = False
        noisy.append(torch.where(replaced, others[..., copy], ids))
    return Split(split.name, {"input_ids": torch.cat(noisy)})


def _draw(parent: Any, ids: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(windows, length, count) tokens for every position but the first, of which the token itself is repeated."""
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        logits: Tensor = parent(input_ids=ids, use_cache=False).logits
    chances = logits[:, :-1].float().softmax(-1)
    drawn = torch.multinomial(chances.flatten(0, 1), count, replacement=True, generator=generator)
    return torch.cat([ids[:, :1, None].expand(-1, -1, count), drawn.view(*ids[:, 1:].shape, count)], 1)
