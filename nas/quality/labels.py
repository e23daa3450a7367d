"""Classifiers with independent labels: KL of every label's own probability to the parent's."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from nas.data.dataset import Dataset
from nas.quality.outputs import HeadOutputs
from nas.quality.quality import Quality


class LabelEvaluator:
    """Mean KL(parent || candidate) of the Bernoulli distributions of the labels, in nats per label.

    Labels do not compete as classes do, so the outputs go through a sigmoid each, not through one softmax.
    """

    metric = "label_kl"
    higher_is_better = False
    words = "KL of every label's probability to the parent's, in nats per label"

    def __init__(self, parent: Any, dataset: Dataset) -> None:
        """`parent` is kept; its outputs are computed when a split is first asked for."""
        self.dataset, self._outputs = dataset, HeadOutputs(parent, dataset)

    @torch.inference_mode()
    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """KL, and the share of labels that are given or withheld (at one half) as the parent does."""
        own, parent = self._outputs.pair(model, split, items, start)
        per_item = compute_bernoulli_divergence(parent, own).mean(-1)
        loss = float(per_item.mean())
        others = {"agreement": float(((own > 0) == (parent > 0)).float().mean())}
        return Quality(self.metric, loss, False, split, max(loss, 0.0), others, len(own), tuple(per_item.tolist()))


def compute_bernoulli_divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL(sigmoid(logits) || sigmoid(others)), element by element, in nats."""
    yes, no = (logsigmoid(sign * logits) for sign in (1, -1))
    other_yes, other_no = (logsigmoid(sign * others) for sign in (1, -1))
    return yes.exp() * (yes - other_yes) + no.exp() * (no - other_no)
