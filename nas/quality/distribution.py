"""Distributions of the parent, stored once, and the divergence of a candidate from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.quality.quality import Quality

_FULL_UP_TO = 8192  # outcomes; larger vocabularies keep the most likely ones and the rest as one
TOP = 512
_MAX_NATS = 700.0  # nats of a perplexity that a float holds
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
            return cls(logits.float() - compute_log_normaliser(logits)[:, None])
        likely = [
            piece.float().log_softmax(-1).topk(keep, dim=-1)
            for piece in torch.split(logits, _count_rows_at_once(logits))
        ]
        values, indices = (torch.cat(pieces) for pieces in zip(*likely, strict=True))
        rest = (1 - values.exp().sum(-1)).clamp(min=1e-12).log()
        return cls(values, indices, rest)

    def select(self, rows: slice) -> "StoredDistribution":
        """Some of the rows."""
        kept = (None if tensor is None else tensor[rows] for tensor in (self.indices, self.log_rest))
        return StoredDistribution(self.log_p[rows], *kept)

    def compute_divergence(self, logits: Tensor, normaliser: Tensor | None = None) -> Tensor:
        """KL(stored || softmax(logits)) per row, natural log; with outcomes lumped together, a lower bound of it.

        Logarithms are subtracted outcome by outcome: sums of p log p and p log q taken apart would cancel badly.

        Args:
            normaliser: (rows,) `compute_log_normaliser(logits)`, where it is known already.
        """
        log_z = compute_log_normaliser(logits) if normaliser is None else normaliser
        step = _count_rows_at_once(logits)
        pieces = [
            self._read_rows(slice(at, at + step), logits[at : at + step], log_z[at : at + step])
            for at in range(0, len(logits), step)
        ]
        return torch.cat(pieces)

    def _read_rows(self, rows: slice, logits: Tensor, log_z: Tensor) -> Tensor:
        log_p = self.log_p[rows]
        chosen = logits if self.indices is None else logits.gather(-1, self.indices[rows])
        log_q = chosen.float() - log_z[:, None]
        within = (log_p.exp() * (log_p - log_q)).sum(-1)
        if self.log_rest is None:
            return within
        log_rest = self.log_rest[rows]
        return within + log_rest.exp() * (log_rest - (1 - log_q.exp().sum(-1)).clamp(min=1e-12).log())


def compute_log_normaliser(logits: Tensor) -> Tensor:
    """(rows,): the log of the sum of exponentials of every row, fp32."""
    return torch.cat([piece.float().logsumexp(-1) for piece in torch.split(logits, _count_rows_at_once(logits))])


def _count_rows_at_once(logits: Tensor) -> int:
    return max(1, _CHUNK // logits.shape[-1])


def average_divergences(losses: Sequence[Tensor], surprises: Sequence[Tensor], split: str) -> Quality:
    """The mean KL of some items, with the perplexity of their true tokens.

    Args:
        losses: of each item, (), in nats.
        surprises: of each item the mean of -log p of its true tokens, (), in nats.
    """
    per_item = torch.stack(list(losses))
    loss, surprise = float(per_item.mean()), float(torch.stack(list(surprises)).mean())
    others = {"perplexity": math.exp(min(surprise, _MAX_NATS))}
    return Quality("kl", loss, False, split, max(loss, 0.0), others, len(per_item), tuple(per_item.tolist()))
