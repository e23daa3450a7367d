"""Classifiers: KL of the class distribution to the parent's, and accuracy where the data has labels."""

from typing import Any

import torch

from nas.data.dataset import Dataset
from nas.quality.distribution import StoredDistribution
from nas.quality.outputs import HeadOutputs
from nas.quality.quality import Quality


class ClassificationEvaluator:
    """Mean KL(parent || candidate) per item, in nats; accuracy beside it."""

    metric = "kl"
    higher_is_better = False
    words = "KL of the classes to those of the parent, in nats"

    def __init__(self, parent: Any, dataset: Dataset) -> None:
        """`parent` is kept; its distributions are computed when a split is first asked for."""
        self.dataset, self._outputs = dataset, HeadOutputs(parent, dataset)

    @torch.inference_mode()
    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """KL, accuracy and agreement with the parent of `model`."""
        own, parent = self._outputs.pair(model, split, items, start)
        per_item = StoredDistribution.of(parent).compute_divergence(own)
        chosen, labels = own.argmax(-1), self.dataset.get_split(split).labels
        others = {"agreement": float((chosen == parent.argmax(-1)).float().mean())}
        if labels is not None:
            others["accuracy"] = float((chosen == labels[start : start + len(own)]).float().mean())
        loss = float(per_item.mean())
        return Quality(self.metric, loss, False, split, loss, others, len(own), tuple(per_item.tolist()))
