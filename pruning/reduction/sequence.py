"""The tokens that are left in the current pass, and what every block after a stage is given instead."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pruning.reduction.layout import Droppable
from pruning.reduction.merge import Merged


@dataclass(frozen=True)
class Sequence:
    """T of the N tokens of every row.

    Attributes:
        total: N.
        count: droppable tokens of a row at first.
        left: droppable tokens of a row now.
        indices: (B or 1, T) int64, where each one was among the N; rising.
        protected: (B or 1, T) bool, tokens that always stay.
        valid: (B, T) bool, tokens that are no padding; None where all are.
        positions: (B, T) int64, the numbers they were given anew; None where they keep theirs.
        shift: (B, 1) int64, by how much later numbers are lower; of renumbered sequences only.
        sizes: (B, T) float32, how many of the N each one stands for, 0 for padding; where tokens were joined only.
        source: (B, N) int64, the index among the T that each of the N went into; where tokens were joined only.

    Example:
        >>> sequence = Sequence.start(hidden, layout.read(inputs, hidden))
        >>> shorter = sequence.select(torch.tensor([[0, 1, 5]]), left=1)
    """

    total: Any
    count: Any
    left: Any
    indices: Tensor
    protected: Tensor
    valid: Tensor | None
    positions: Tensor | None = None
    shift: Tensor | None = None
    sizes: Tensor | None = None
    source: Tensor | None = None

    @classmethod
    def start(cls, hidden: Tensor, droppable: Droppable) -> "Sequence":
        """All tokens of a batch of states (B, N, H)."""
        indices = torch.arange(hidden.shape[1], device=hidden.device)[None]
        return cls(hidden.shape[1], droppable.count, droppable.count, indices, droppable.protected, droppable.valid)

    def select(self, chosen: Tensor, left: Any) -> "Sequence":
        """The tokens at `chosen` (B, T') of this sequence."""
        return replace(
            self,
            left=left,
            indices=take(self.indices, chosen),
            protected=take(self.protected, chosen),
            valid=None if self.valid is None else take(self.valid, chosen),
        )

    def join(self, merged: Merged, left: Any) -> "Sequence":
        """The tokens that this sequence's were joined into."""
        return replace(
            self.select(merged.kept, left),
            valid=None if self.valid is None else merged.sizes > 0,
            sizes=merged.sizes,
            source=merged.source if self.source is None else merged.source.gather(1, self.source),
        )

    def renumber(self, numbers: Tensor, valid: Tensor | None) -> "Sequence":
        """With positions that rise by one from the first token on.

        Args:
            numbers: (B or 1, N) int64, the positions of the whole sequence.
            valid: (B, N) of the whole sequence.
        """
        batch = self.indices.shape[0]
        numbers = numbers.expand(batch, -1)
        if self.valid is None or valid is None:
            order, first = torch.arange(self.indices.shape[1], device=numbers.device)[None], numbers[:, :1]
            shift = torch.full_like(first, 1) * (self.total - self.indices.shape[1])
        else:
            order = (self.valid.long().cumsum(1) - 1).clamp(min=0)
            first = numbers.gather(1, valid.long().argmax(1, keepdim=True))
            shift = valid.sum(1, keepdim=True) - self.valid.sum(1, keepdim=True)
        return replace(self, positions=first + order, shift=shift)

    def find_last(self) -> Tensor | None:
        """(B, 1) index of the last token that is no padding; None where that is the last one."""
        if self.valid is None:
            return None
        return (self.valid.long().cumsum(1)).argmax(1, keepdim=True)


def take(values: Tensor, indices: Tensor) -> Tensor:
    """Entries along the axis of tokens.

    Args:
        values: (B or 1, N, ...).
        indices: (B, T).

    Returns:
        (B, T, ...). Rows are read whole: an index per element would be as large as the states.
    """
    batch, length = indices.shape[0], values.shape[1]
    values = values.expand(batch, *values.shape[1:])
    if values.ndim == 2:
        return values.gather(1, indices)
    rows = torch.arange(batch, device=indices.device)[:, None] * length + indices
    return values.flatten(0, 1).index_select(0, rows.flatten()).reshape(*indices.shape, *values.shape[2:])


def restore_length(hidden: Tensor, sequence: Sequence) -> Tensor:
    """The sequence at its original length: every dropped token gets the mean of the droppable ones that are left.

    A token that went into another gets that one's state.

    So the mean over all tokens weighs the survivors by what they stand for.

    Args:
        hidden: (B, T, H).

    Returns:
        (B, N, H).
    """
    if sequence.source is not None:
        return take(hidden, sequence.source)
    batch, left = hidden.shape[:2]
    indices = sequence.indices.expand(batch, -1)
    counts = ~sequence.protected if sequence.valid is None else ~sequence.protected & sequence.valid
    weights = counts.expand(batch, -1).to(hidden.dtype)[..., None]
    mean = (hidden * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
    slots = torch.full((batch, sequence.total), left, dtype=torch.long, device=hidden.device)
    numbers = torch.arange(left, device=hidden.device).expand(batch, -1)
    return take(torch.cat((hidden, mean), 1), slots.scatter(1, indices, numbers))
