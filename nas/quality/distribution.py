"""Distributions of the parent, stored once, and the divergence of a candidate from them."""

from dataclasses import dataclass

import torch
from torch import Tensor

_FULL_UP_TO = 8192  # outcomes; larger vocabularies keep the most likely ones and the rest as one
TOP = 512
_CHUNK = 2**23  # numbers at a time: (rows, outcomes) in fp32 is never held for everything


@dataclass(frozen=True)
class StoredDistribution:
    """Log-probabilities of some rows: of all outcomes, or of the `TOP` most likely and of the rest together.

    `log_p` is (rows, k); `indices` (rows, k) names the outcomes, None when all are there in order; `log_rest` (rows,).
    """

    log_p: Tensor
    indices: Tensor | None = None
    log_rest: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, top: int | None = None) -> "StoredDistribution":
        """Store the distribution of `logits` (rows, outcomes); all outcomes if there are few, else the `top`."""
        keep = top or (TOP if logits.shape[-1] > _FULL_UP_TO else None)
        if keep is None or keep >= logits.shape[-1]:
            return cls(logits.float().log_softmax(-1))
        likely = [
            piece.float().log_softmax(-1).topk(keep, dim=-1) for piece in torch.split(logits, _rows_at_once(logits))
        ]
        values, indices = (torch.cat(pieces) for pieces in zip(*likely, strict=True))
        rest = (1 - values.exp().sum(-1)).clamp(min=1e-12).log()
        return cls(values, indices, rest)

    def divergence(self, logits: Tensor) -> Tensor:
        """KL(stored || softmax(logits)) per row, natural log; with outcomes lumped together, a lower bound of it."""
        step = _rows_at_once(logits)
        pieces = [self._rows(slice(at, at + step), logits[at : at + step]) for at in range(0, len(logits), step)]
        return torch.cat(pieces)

    def _rows(self, rows: slice, logits: Tensor) -> Tensor:
        log_q, log_p = logits.float().log_softmax(-1), self.log_p[rows]
        if self.indices is None or self.log_rest is None:
            return (log_p.exp() * (log_p - log_q)).sum(-1)
        chosen = log_q.gather(-1, self.indices[rows])
        rest_q = (1 - chosen.exp().sum(-1)).clamp(min=1e-12).log()
        rest_p = self.log_rest[rows]
        return (log_p.exp() * (log_p - chosen)).sum(-1) + rest_p.exp() * (rest_p - rest_q)


def _rows_at_once(logits: Tensor) -> int:
    return max(1, _CHUNK // logits.shape[-1])
