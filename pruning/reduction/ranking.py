"""From the states at a stage to one score per token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.reduction.labels import select_queries
from pruning.reduction.projections import Projections, Rotary
from pruning.reduction.scores import (
    compute_attention_weights,
    compute_key_scores,
    compute_norm_scores,
    draw_random_scores,
)
from pruning.reduction.sequence import Sequence, take
from search_spaces.schedule import Reduction, Scorer


@dataclass(frozen=True)
class Ranked:
    """States (B, T, H) whose queries and keys rank, and the cosines and sines of their positions."""

    hidden: Tensor
    rotary: Rotary | None


@torch.no_grad()
def rank(
    reduction: Reduction, ranker: Projections | None, ranked: Ranked, tokens: Sequence, asking: Tensor | None = None
) -> Tensor:
    """(B or 1, T) float32: how much each token matters. Has no gradient.

    The attention scores are that of one query: the last token that is no padding, the first (class) token, or the
    mean of all. The mean of queries is the query of the mean input where queries have neither positions nor norms
    of their own; where they have, that query is taken, at the position of the last token. In training `asking`
    (B, N) bool says which tokens of the whole sequence ask in place of the last one.
    """
    if reduction.scorer is Scorer.RANDOM:
        return draw_random_scores(tokens.indices)
    if reduction.scorer is Scorer.NORM:
        return compute_norm_scores(ranked.hidden)
    assert ranker is not None
    normed = ranker.normalise(ranked.hidden)
    if reduction.scorer is Scorer.KEYS:
        return compute_key_scores(ranker.project_keys(normed), tokens.valid)
    if asking is not None and reduction.scorer is Scorer.LAST:
        return _average_queries(asking, ranker, ranked, tokens)
    row, index = _query_row(reduction.scorer, normed, tokens)
    query = ranker.project_queries(row, None if ranked.rotary is None else _select_rotary(ranked.rotary, index))
    allowed = None if tokens.valid is None else tokens.valid[:, None]
    return compute_attention_weights(
        query, ranker.project_keys(normed, ranked.rotary), ranker.scaling, ranker.softcap, allowed
    )[:, 0]


def _average_queries(asking: Tensor, ranker: Projections, ranked: Ranked, tokens: Sequence) -> Tensor:
    """(B, T): the mean of the attention that several tokens of each row give, none to what comes after them."""
    normed = ranker.normalise(ranked.hidden)
    indices, weights = select_queries(asking, tokens)
    rotary = None if ranked.rotary is None else _select_rotary(ranked.rotary, indices)
    allowed = indices[..., None] >= torch.arange(normed.shape[1], device=normed.device)
    if tokens.valid is not None:
        allowed = allowed & tokens.valid[:, None]
    queries, keys = ranker.project_queries(take(normed, indices), rotary), ranker.project_keys(normed, ranked.rotary)
    given = compute_attention_weights(queries, keys, ranker.scaling, ranker.softcap, allowed)
    return (given * weights[..., None]).sum(1)


def _query_row(scorer: Scorer, normed: Tensor, tokens: Sequence) -> tuple[Tensor, Tensor | None]:
    """(B, 1, H) what the query is made of, and its index (B, 1); None for the last."""
    last = tokens.find_last()
    if scorer is Scorer.MEAN:
        if tokens.valid is None:
            return normed.mean(1, keepdim=True), None
        weights = tokens.valid.to(normed.dtype)[..., None]
        return (normed * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True), last
    if scorer is Scorer.CLASS:
        first = torch.zeros(normed.shape[0], 1, dtype=torch.long, device=normed.device)
        if tokens.valid is not None:
            first = tokens.valid.long().argmax(1, keepdim=True)
        return take(normed, first), first
    return (normed[:, -1:], None) if last is None else (take(normed, last), last)


def _select_rotary(rotary: Rotary, index: Tensor | None) -> Rotary:
    cosines, sines = (values[:, -1:] if index is None else take(values, index) for values in rotary)
    return cosines, sines
