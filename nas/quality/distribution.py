"""Distributions of the parent, stored once, and the divergence of a candidate from them."""

from dataclasses import dataclass

import torch
from torch import Tensor

_FULL_UP_TO = 8192  # outcomes; larger vocabularies keep the most likely ones and the rest as one
TOP = 512
_CHUNK = 2**23  # numbers at a time: (rows, outcomes) in fp32 is never held for everything


@dataclass(frozen=True)
class StoredDistribution:
    """Probabilities of some rows: of all outcomes, or of the `TOP` most likely and of the rest together.

    `p` is (rows, k) and `negentropy` (rows,) the sum of p log p over everything stored; `indices` (rows, k) names
    the outcomes, None when all are there in order; `rest` (rows,) is the probability of the others.
    """

    p: Tensor
    negentropy: Tensor
    indices: Tensor | None = None
    rest: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, top: int | None = None) -> "StoredDistribution":
        """Store the distribution of `logits` (rows, outcomes); all outcomes if there are few, else the `top`."""
        keep = top or (TOP if logits.shape[-1] > _FULL_UP_TO else None)
        if keep is None or keep >= logits.shape[-1]:
            pieces = [_complete(piece) for piece in torch.split(logits, _rows_at_once(logits))]
            p, negentropy = (torch.cat(parts) for parts in zip(*pieces, strict=True))
            return cls(p, negentropy)
        likely = [
            piece.float().log_softmax(-1).topk(keep, dim=-1) for piece in torch.split(logits, _rows_at_once(logits))
        ]
        log_p, indices = (torch.cat(parts) for parts in zip(*likely, strict=True))
        p = log_p.exp()
        rest = (1 - p.sum(-1)).clamp(min=1e-12)
        return cls(p, (p * log_p).sum(-1) + rest * rest.log(), indices, rest)

    def first(self, rows: int) -> "StoredDistribution":
        """The distributions of the first rows."""
        cut = [None if tensor is None else tensor[:rows] for tensor in (self.indices, self.rest)]
        return StoredDistribution(self.p[:rows], self.negentropy[:rows], cut[0], cut[1])

    def divergence(self, logits: Tensor, normaliser: Tensor | None = None) -> Tensor:
        """KL(stored || softmax(logits)) per row, natural log; with outcomes lumped together, a lower bound of it.

        With z the logits and Z their normaliser it is sum p log p - sum p z + log Z: two passes over the logits.

        Args:
            normaliser: (rows,) `log_normaliser(logits)`, where it is known already.
        """
        log_z = log_normaliser(logits) if normaliser is None else normaliser
        step = _rows_at_once(logits)
        pieces = [
            self._rows(slice(at, at + step), logits[at : at + step], log_z[at : at + step])
            for at in range(0, len(logits), step)
        ]
        return torch.cat(pieces)

    def _rows(self, rows: slice, logits: Tensor, log_z: Tensor) -> Tensor:
        p = self.p[rows]
        if self.indices is None or self.rest is None:
            return self.negentropy[rows] - _dot(p, logits.float()) + log_z
        log_q = logits.gather(-1, self.indices[rows]).float() - log_z[:, None]
        rest_q = (1 - log_q.exp().sum(-1)).clamp(min=1e-12).log()
        return self.negentropy[rows] - _dot(p, log_q) - self.rest[rows] * rest_q


def log_normaliser(logits: Tensor) -> Tensor:
    """(rows,): the log of the sum of exponentials of every row, fp32."""
    return torch.cat([piece.float().logsumexp(-1) for piece in torch.split(logits, _rows_at_once(logits))])


def _complete(logits: Tensor) -> tuple[Tensor, Tensor]:
    log_p = logits.float().log_softmax(-1)
    p = log_p.exp()
    return p, _dot(p, log_p)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Row by row, without a third array of their size."""
    return torch.bmm(one[:, None, :], other[:, :, None])[:, 0, 0]


def _rows_at_once(logits: Tensor) -> int:
    return max(1, _CHUNK // logits.shape[-1])
