"""In which order the calibration items are trained on: a function of the seed and the step alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nas.data.dataset import Split


@dataclass
class Items:
    """All items of a split again and again, each time in another order.

    Attributes:
        split: one row of every input for each item.
    """

    split: Split
    seed: int
    _orders: dict[int, Tensor] = field(default_factory=dict, init=False)

    def iterate_batches(self, step: int, size: int, count: int) -> Iterator[dict[str, Tensor]]:
        """The `count` batches of a step, of `size` items each."""
        first = step * size * count
        for begin in range(first, first + size * count, size):
            chosen = torch.stack([self._draw_item(position) for position in range(begin, begin + size)])
            yield {name: tensor[chosen] for name, tensor in self.split.inputs.items()}

    def _draw_item(self, position: int) -> Tensor:
        epoch, at = divmod(position, len(self.split))
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._orders = {epoch: torch.randperm(len(self.split), generator=generator)}
        return self._orders[epoch][at]


def count_tokens(inputs: Mapping[str, Tensor]) -> int:
    """Tokens that are no padding; of images how many there are."""
    mask = inputs.get("attention_mask", inputs.get("input_ids"))
    if mask is None:
        return len(next(iter(inputs.values())))
    return int(mask.sum()) if "attention_mask" in inputs else mask.numel()
