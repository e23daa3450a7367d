"""What looks at the blocks of a model while batches run through them."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

Inputs = Mapping[str, Tensor]  # keyword inputs of a model


class Removable(Protocol):
    """What ends the watching of a block."""

    def remove(self) -> None:
        """End it."""


class Observer(Protocol):
    """Looks at what enters and leaves blocks, batch by batch or block by block.

    Example:
        >>> observer: Observer = RedundancyObserver(anatomy)
        >>> run_in_turn(model, anatomy, observer, batches)
    """

    name: str

    def watch(self, index: int, block: nn.Module) -> Removable:
        """Look at a block until what is returned is removed."""

    def begin(self, number: int, inputs: Inputs) -> None:
        """What is seen from now on is of this batch."""

    def end(self, number: int) -> None:
        """A batch has left the last block."""

    def pack(self) -> dict[str, Any]:
        """All that was seen so far, as tensors and plain values."""

    def unpack(self, packed: Mapping[str, Any]) -> None:
        """Go on from there."""
