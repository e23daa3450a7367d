"""Token classifiers, such as named-entity recognisers: what the head says of every token, against the parent's."""

from typing import Any

import torch
from torch import Tensor

from nas.data.dataset import Dataset
from nas.data.problem_type import ProblemType
from nas.quality.distribution import StoredDistribution
from nas.quality.labels import compute_bernoulli_divergence
from nas.quality.outputs import HeadOutputs
from nas.quality.quality import Quality
from nas.quality.ranks import compute_rank_correlation
from nas.quality.scores import compute_variance

_TOLD = {
    ProblemType.CLASSES: ("token_kl", "KL of the classes of every token to those of the parent, in nats"),
    ProblemType.LABELS: ("label_kl", "KL of every label's probability, token by token, to the parent's, in nats"),
    ProblemType.SCORES: (
        "relative_squared_error",
        "squared difference of the tokens' scores to the parent's, over the variance of these",
    ),
}


class TokenLabelEvaluator:
    """The mean over a text's tokens of what tells their outputs from the parent's; padding does not count.

    KL(parent || candidate) of the classes in nats; of independent labels that of each one; of scores, as a head with
    one output gives them, the squared difference over their variance.
    """

    higher_is_better = False

    def __init__(self, parent: Any, dataset: Dataset, problem: ProblemType = ProblemType.CLASSES) -> None:
        """`parent` is kept; its outputs are computed when a split is first asked for. `problem`: of one token."""
        self.dataset, self._outputs, self._problem = dataset, HeadOutputs(parent, dataset), problem
        self.metric, self.words = _TOLD[problem]

    @torch.inference_mode()
    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """The loss; beside it the share of tokens (or labels) for which model and parent agree, or Spearman's rank
        correlation of the scores of all tokens."""
        own, parent = self._outputs.pair(model, split, items, start)
        real = self._mark_real(split)[start : start + len(own)]
        per_item = _average(self._compute_distance(split, own, parent), real)
        if self._problem is ProblemType.SCORES:
            ranks = [compute_rank_correlation(*pair) for pair in zip(own[real].T, parent[real].T, strict=True)]
            others = {"spearman": sum(ranks) / len(ranks)}
        else:
            others = {"agreement": float(_average(self._compute_agreement(own, parent), real).mean())}
        loss = float(per_item.mean())
        return Quality(self.metric, loss, False, split, max(loss, 0.0), others, len(own), tuple(per_item.tolist()))

    def _mark_real(self, split: str) -> Tensor:
        """(items, tokens) bool: no padding."""
        return self.dataset.get_split(split).inputs["attention_mask"].bool()

    def _compute_distance(self, split: str, own: Tensor, parent: Tensor) -> Tensor:
        """(items, tokens)."""
        match self._problem:
            case ProblemType.LABELS:
                return compute_bernoulli_divergence(parent, own).mean(-1)
            case ProblemType.SCORES:
                every = self._outputs.get_parent_outputs(split)[self._mark_real(split)]
                return ((own - parent).square() / compute_variance(every)).mean(-1)
        divergence = StoredDistribution.of(parent.flatten(0, 1)).compute_divergence(own.flatten(0, 1))
        return divergence.reshape(own.shape[:2])

    def _compute_agreement(self, own: Tensor, parent: Tensor) -> Tensor:
        """(items, tokens), between 0 and 1."""
        if self._problem is ProblemType.LABELS:
            return ((own > 0) == (parent > 0)).float().mean(-1)
        return (own.argmax(-1) == parent.argmax(-1)).float()


def _average(values: Tensor, real: Tensor) -> Tensor:
    """(items,): over the real tokens of each."""
    return (values * real).sum(-1) / real.sum(-1)
