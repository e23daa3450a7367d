"""Which of the parent's tokens a candidate's are, where it drops some."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruning.anatomy.part import get_token_mask
from pruning.reduction.hooks import BlockEntry, TokenHooks
from pruning.reduction.sequence import Sequence, take


@dataclass(frozen=True)
class TokenAlignment:
    """The tokens of a candidate's current pass, as those of its parent.

    Attributes:
        hooks: of the candidate's token schedule; None where it has none.
        mask: (batch, tokens) of the inputs, 1 for what is no padding; None where nothing is padded.

    Example:
        >>> TokenAlignment(None, torch.tensor([[1, 1, 0]])).mark_real_rows(1, 3).tolist()
        [True, True, False]
    """

    hooks: TokenHooks | None
    mask: Tensor | None

    @classmethod
    def of(cls, candidate: Any, inputs: Mapping[str, Tensor]) -> "TokenAlignment":
        """The alignment of a candidate's passes over some inputs."""
        entries = (hook for module in candidate.modules() for hook in module._forward_pre_hooks.values())
        hooks = next((entry.hooks for entry in entries if isinstance(entry, BlockEntry)), None)
        return cls(hooks, get_token_mask(candidate, inputs))

    def align_rows(self, values: Tensor) -> Tensor:
        """The parent's values (batch, N, d) for the tokens T of now, (batch · T, d); of joined tokens the mean."""
        now = self._now
        if now is None:
            return values.flatten(0, 1)
        if now.source is None:
            return take(values, now.indices.expand(len(values), -1)).flatten(0, 1)
        sums = torch.zeros(
            len(values), now.indices.shape[1], values.shape[-1], dtype=values.dtype, device=values.device
        )
        sums.scatter_add_(1, now.source[..., None].expand_as(values), values)
        counts = torch.zeros(sums.shape[:2], dtype=values.dtype, device=values.device)
        counts.scatter_add_(1, now.source, torch.ones_like(now.source, dtype=values.dtype))
        return (sums / counts.clamp(min=1)[..., None]).flatten(0, 1)

    def mark_real_rows(self, batch: int, tokens: int) -> Tensor:
        """(batch · tokens,) bool, those of now that are no padding."""
        now = self._now
        if now is not None and now.valid is not None:
            return now.valid.flatten()
        if self.mask is None or self.mask.shape != (batch, tokens):
            return torch.ones(batch * tokens, dtype=torch.bool)
        return self.mask.flatten().bool()

    @property
    def _now(self) -> Sequence | None:
        return None if self.hooks is None else self.hooks.now
