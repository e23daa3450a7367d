"""Classifiers: KL of the class distribution to the parent's, and accuracy where the data has labels."""

from typing import Any

import torch
from torch import Tensor

from nas.data.dataset import Dataset
from nas.quality.distribution import StoredDistribution
from nas.quality.quality import Quality

_BATCH = 64


class ClassificationEvaluator:
    """Mean KL(parent || candidate) per item, in nats; accuracy beside it."""

    metric = "kl"
    higher_is_better = False

    def __init__(self, parent: Any, dataset: Dataset) -> None:
        """`parent` is kept; its distributions are computed when a split is first asked for."""
        self.dataset, self._parent = dataset, parent
        self._stored: dict[str, Tensor] = {}

    @torch.inference_mode()
    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """KL, accuracy and agreement with the parent of `model`."""
        data = self.dataset.split(split)
        if split not in self._stored:
            self._stored[split] = self._logits(self._parent, split, None, 0)
        logits = self._logits(model, split, items, start)
        parent = self._stored[split][start : start + len(logits)]
        per_item = StoredDistribution.of(parent).divergence(logits)
        chosen = logits.argmax(-1)
        others = {"agreement": float((chosen == parent.argmax(-1)).float().mean())}
        if data.labels is not None:
            others["accuracy"] = float((chosen == data.labels[start : start + len(logits)]).float().mean())
        loss = float(per_item.mean())
        return Quality("kl", loss, False, split, loss, others, len(per_item), tuple(per_item.tolist()))

    def _logits(self, model: Any, split: str, items: int | None, start: int) -> Tensor:
        batches = self.dataset.split(split).batches(_BATCH, items, start)
        return torch.cat([model(**batch).logits for batch in batches])
