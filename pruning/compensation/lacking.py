"""What a projection would have to write in addition, for the residual stream to be what the parent's was."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from pruning.compensation.norms import TokenMap


@dataclass(frozen=True)
class Route:
    """What a contribution passes on its way to where the next part reads the stream.

    Attributes:
        after: norms and scales of the contribution itself, before it is added to the stream.
        closing: norms of the sum, in post-norm models.
        factor: by which the contribution is multiplied behind `after`: a number, or one for each channel (d).

    Example:
        >>> route = Route((), (nn.LayerNorm(8),))
        >>> lacking = route.find_lacking(torch.randn(4, 8), torch.randn(4, 8), torch.randn(4, 8))
    """

    after: Sequence[nn.Module]
    closing: Sequence[nn.Module]
    factor: float | Tensor = 1.0

    def compute_contribution(self, written: Tensor) -> Tensor:
        """What reaches the stream (tokens, d) of what a projection writes (tokens, d)."""
        return self.factor * _follow(self.after, written)[-1]

    def find_lacking(self, written: Tensor, others: Tensor, target: Tensor) -> Tensor:
        """What to add to `written`, so that about the target arrives; all are (tokens, d).

        Exact where nothing but additions and scales are passed. A norm is undone at the spread that each token has
        now, which the change itself would alter.

        Args:
            written: by the projection.
            others: what else is in the stream.
            target: the stream where the next part reads it.
        """
        own = _follow(self.after, written)
        whole = _follow(self.closing, others + self.factor * own[-1])
        wanted = (_undo(self.closing, whole, target) - others) / self.factor
        if isinstance(self.factor, Tensor):  # a channel that is multiplied by zero lacks nothing that could be written
            wanted = torch.where(self.factor == 0, own[-1], wanted)
        return _undo(self.after, own, wanted) - written


def _follow(modules: Sequence[nn.Module], value: Tensor) -> list[Tensor]:
    """A value (tokens, d) before and after each module."""
    values = [value]
    for module in modules:
        values.append(module(values[-1][None])[0])
    return values


def _undo(modules: Sequence[nn.Module], values: list[Tensor], wanted: Tensor) -> Tensor:
    """What to put in the place of the first of the values, so that `wanted` comes out in place of the last."""
    for module, (given, got) in reversed(list(zip(modules, pairwise(values), strict=True))):
        wanted = TokenMap.read(module, wanted.shape[-1]).invert(wanted, given, got)
    return wanted
