"""In which order the calibration items are trained on: a function of the seed and the step alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nas.data.dataset import Split


@dataclass(frozen=True)
class Batch:
    """Some items.

    Attributes:
        positions: (items,) in the split.
        inputs: keyword inputs of the model.
    """

    positions: Tensor
    inputs: dict[str, Tensor]

    def to(self, device: torch.device) -> "Batch":
        """The same with its inputs on a device."""
        return Batch(self.positions, {name: tensor.to(device) for name, tensor in self.inputs.items()})


@dataclass
class Items:
    """All items of a split again and again, each time in another order.

    Attributes:
        split: whose rows are given; of some inputs, such as images, several to an item.
        seed: of the orders.
        process, processes: which of how many work together; each is given other items.
    """

    split: Split
    seed: int
    process: int = 0
    processes: int = 1
    _orders: dict[int, Tensor] = field(default_factory=dict, init=False)

    def iterate_batches(self, step: int, size: int, count: int) -> Iterator[Batch]:
        """The `count` batches of a step, of `size` items each."""
        for number in range(step * count, (step + 1) * count):
            begin = (number * self.processes + self.process) * size
            chosen = torch.stack([self._draw_item(position) for position in range(begin, begin + size)])
            yield Batch(chosen, {name: self._take_rows(tensor, chosen) for name, tensor in self.split.inputs.items()})

    def _draw_item(self, position: int) -> Tensor:
        epoch, at = divmod(position, len(self.split))
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._orders = {epoch: torch.randperm(len(self.split), generator=generator)}
        return self._orders[epoch][at]

    def _take_rows(self, tensor: Tensor, chosen: Tensor) -> Tensor:
        count = len(self.split)
        return tensor.reshape(count, len(tensor) // count, *tensor.shape[1:])[chosen].flatten(0, 1)


def count_tokens(inputs: Mapping[str, Tensor]) -> int:
    """Tokens that are no padding; of images alone how many there are."""
    mask = inputs.get("attention_mask", inputs.get("input_ids"))
    if mask is None:
        return len(next(iter(inputs.values())))
    return int(mask.sum()) if "attention_mask" in inputs else mask.numel()
