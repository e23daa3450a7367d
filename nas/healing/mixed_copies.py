"""More texts to learn from: each with the words of another one behind a random place.

A little text is soon learned by heart. A parent embeds any text, so it need not be one that somebody wrote.
"""

import torch
from torch import Tensor

from nas.data.dataset import Split

_IDS, _MASK = "input_ids", "attention_mask"
_OF_TEXTS = {_IDS, _MASK, "token_type_ids"}
_ENDS = 2  # tokens of a text that are the model's own: the first and the last


def add_mixed_copies(split: Split, copies: int, seed: int) -> Split:
    """The texts and, behind them, copies of all of them that go on like another one from a random token on.

    Where each text has its first and last token, and its padding, stays as it is: what is exchanged are words.

    Args:
        split: with `input_ids` and `attention_mask` (texts, length); padding is behind the words.
        copies: of each text.
        seed: of partners and places.

    Example:
        >>> more = add_mixed_copies(split, copies=3, seed=0)
        >>> len(more) == 4 * len(split)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    ids, lengths = split.inputs[_IDS], split.inputs[_MASK].sum(1)
    mixed = [ids, *(_mix(ids, lengths, generator) for _ in range(copies))]
    inputs = {name: torch.cat([tensor] * (copies + 1)) for name, tensor in split.inputs.items()}
    return Split(split.name, inputs | {_IDS: torch.cat(mixed)})


def can_mix(split: Split) -> bool:
    """Whether a split is of texts alone, with their padding behind the words."""
    mask = split.inputs.get(_MASK)
    only_texts = _IDS in split.inputs and split.inputs.keys() <= _OF_TEXTS
    return only_texts and mask is not None and bool(mask[:, 0].all())


def _mix(ids: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
    """(texts, length): each text up to a token of its own, another's words from there on."""
    partners = torch.randperm(len(ids), generator=generator)
    words = (torch.minimum(lengths, lengths[partners]) - _ENDS).clamp(min=0)
    begins = 1 + (torch.rand(len(ids), generator=generator) * words).long()
    places = torch.arange(ids.shape[1])
    exchanged = (places >= begins[:, None]) & (places <= words[:, None])
    return torch.where(exchanged, ids[partners], ids)
