"""Which inputs of a projection are kept where it has fewer: one order for all levels, so that these are nested."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_NAME = "nas_channel_order"  # on a parent's module


@dataclass(frozen=True, eq=False)
class ChannelOrder:
    """The groups of a projection's inputs, the one that is needed most first. It never changes, so copies share it.

    Attributes:
        groups: (groups,) int64, indices.
        criterion: by which they were ordered.
        scores: (inputs,) float64, what each input counts by itself, where the criterion says so.

    Example:
        >>> ChannelOrder(torch.tensor([2, 0, 1]), "obs").list_kept(2).tolist()
        [0, 2]
    """

    groups: Tensor
    criterion: str
    scores: Tensor | None = None

    def list_kept(self, count: int) -> Tensor:
        """The indices, rising, of the groups that stay where so many do."""
        return self.groups[:count].sort().values

    def __deepcopy__(self, memo: dict[int, Any]) -> "ChannelOrder":
        return self


# From a module, the arguments of a call and which of its tokens are no padding; None for calls of other forms.
Order = Callable[[nn.Module, tuple[Any, ...], Tensor], ChannelOrder | None]


@dataclass(frozen=True)
class Cut:
    """The module that a kind of unit cuts: the inputs of a projection, in groups that stay or go together, or what else
    it says itself.

    Attributes:
        path: within the block.
        size: neighbouring inputs of a group.
        order: of a module that is no projection, finds out the order; None: its inputs are ordered by a criterion.
    """

    path: str
    size: int = 1
    order: Order | None = None


def get_channel_order(module: nn.Module) -> ChannelOrder | None:
    """The order of a projection's inputs; None where none was found out."""
    order: ChannelOrder | None = getattr(module, _NAME, None)
    return order


def keep_channel_order(module: nn.Module, order: ChannelOrder) -> None:
    """Keep an order on a parent's projection: what is cut out of it goes by it."""
    setattr(module, _NAME, order)
