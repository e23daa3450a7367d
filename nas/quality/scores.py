"""Rerankers, reward models and regression: the squared error to the parent's scores, relative to their spread."""

from typing import Any

import torch
from torch import Tensor

from nas.data.dataset import Dataset
from nas.quality.outputs import HeadOutputs
from nas.quality.quality import Quality
from nas.quality.ranks import compute_rank_correlation

_SPREAD = 1e-6  # of the scores' size: below, they are rounding


class ScoreEvaluator:
    """Mean squared difference to the parent's scores over their variance: 1 is as far off as their mean would be."""

    metric = "relative_squared_error"
    higher_is_better = False
    words = "squared difference of the scores to the parent's, over the variance of these"

    def __init__(self, parent: Any, dataset: Dataset) -> None:
        """`parent` is kept; its scores are computed when a split is first asked for."""
        self.dataset, self._outputs = dataset, HeadOutputs(parent, dataset)

    @torch.inference_mode()
    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """The error, and Spearman's rank correlation with the parent's scores; of several outputs their means.

        The variance is that over the whole split, however few items are asked for, so that parts can be joined.
        """
        own, parent = self._outputs.pair(model, split, items, start)
        per_item = ((own - parent).square() / compute_variance(self._outputs.get_parent_outputs(split))).mean(-1)
        loss = float(per_item.mean())
        ranks = [compute_rank_correlation(mine, its) for mine, its in zip(own.T, parent.T, strict=True)]
        others = {"spearman": sum(ranks) / len(ranks)}
        return Quality(self.metric, loss, False, split, loss, others, len(own), tuple(per_item.tolist()))


def compute_variance(scores: Tensor) -> Tensor:
    """(outputs,) over the items; the mean square, else 1, where all items have the same score."""
    size = scores.square().mean(0)
    variance = scores.var(0, correction=0)
    size = torch.where(size > 0, size, 1.0)
    return torch.where(variance > _SPREAD**2 * size, variance, size)
