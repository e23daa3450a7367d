"""What a stage makes of a sequence: some tokens stay, and the others are dropped, merged or recycled."""

from typing import Any

import torch
from torch import Tensor

from pruning.reduction.merge import merge_tokens
from pruning.reduction.projections import Projections
from pruning.reduction.ranking import Ranked
from pruning.reduction.recycle import count_contextual, recycle_tokens
from pruning.reduction.scores import select_best
from pruning.reduction.sequence import Sequence, take
from search_spaces.schedule import Reducer


def reduce_sequence(
    reducer: Reducer, hidden: Tensor, scores: Tensor | None, metric: Tensor | None, tokens: Sequence, keep: Any
) -> tuple[Tensor, Sequence]:
    """The shorter sequence and its states.

    Args:
        reducer: what becomes of the tokens that do not stay.
        hidden: (B, T, H) states.
        scores: (B or 1, T) how much each token matters; None for merging, which ranks pairs.
        metric: (B, T, D) what tokens are compared by; None for dropping.
        tokens: the T tokens.
        keep: how many droppable ones are left.
    """
    batch, length = hidden.shape[:2]
    protected = length - tokens.left
    if metric is None or reducer is Reducer.DROP:
        assert scores is not None
        chosen = select_best(scores.expand(batch, -1), tokens.protected, tokens.valid, protected + keep)
        return take(hidden, chosen), tokens.select(chosen, keep)
    sizes = tokens.sizes
    if sizes is None:
        sizes = hidden.new_ones(batch, length, dtype=torch.float32) if tokens.valid is None else tokens.valid.float()
    if reducer is Reducer.MERGE:
        merged = merge_tokens(hidden, metric, sizes, ~tokens.protected.expand(batch, -1), keep, tokens=tokens.left)
    else:
        assert scores is not None
        few = count_contextual(keep)
        chosen = select_best(scores.expand(batch, -1), tokens.protected, tokens.valid, protected + keep - few)
        merged = recycle_tokens(hidden, metric, sizes, chosen, few)
    return merged.hidden, tokens.join(merged, keep)


@torch.no_grad()
def compute_metric(reducer: Reducer, ranker: Projections | None, ranked: Ranked) -> Tensor | None:
    """(B, T, D) keys without positions, averaged over heads: what tokens are compared by, as in ToMe and VisionZip."""
    if reducer is Reducer.DROP:
        return None
    assert ranker is not None
    return ranker.project_keys(ranker.normalise(ranked.hidden)).mean(1)
