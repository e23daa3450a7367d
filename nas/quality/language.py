"""Language models: KL of the next-token distribution to the parent's, and perplexity."""

import math
from typing import Any

import torch
from torch import Tensor

from nas.data.dataset import Dataset
from nas.quality.distribution import StoredDistribution, log_normaliser
from nas.quality.quality import Quality

_BATCH = 4  # windows


class LanguageEvaluator:
    """Mean KL(parent || candidate) per token, in nats, over all positions of the windows."""

    metric = "kl"
    higher_is_better = False

    def __init__(self, parent: Any, dataset: Dataset) -> None:
        """`parent` is kept; its distributions are computed when a split is first asked for."""
        self.dataset, self._parent = dataset, parent
        self._stored: dict[str, list[StoredDistribution]] = {}

    @torch.inference_mode()
    def evaluate(self, model: Any, split: str = "validation", items: int | None = None) -> Quality:
        """KL and perplexity of `model`."""
        losses, surprises = [], []
        stored = self._parents(split)
        for batch, windows in enumerate(self.dataset.split(split).batches(_BATCH, items)):
            ids = windows["input_ids"]
            logits = _logits(model, ids)
            normaliser = log_normaliser(logits)
            divergence = stored[batch].first(len(logits)).divergence(logits, normaliser)
            losses.append(divergence.reshape(ids.shape).mean(-1))
            surprises.append(_surprise(logits, normaliser, ids))
        per_item = torch.cat(losses)
        loss, surprise = float(per_item.mean()), float(torch.cat(surprises).mean())
        others = {"perplexity": math.exp(surprise)}
        return Quality("kl", loss, False, split, max(loss, 0.0), others, len(per_item), tuple(per_item.tolist()))

    def _parents(self, split: str) -> list[StoredDistribution]:
        if split not in self._stored:
            batches = self.dataset.split(split).batches(_BATCH)
            self._stored[split] = [StoredDistribution.of(_logits(self._parent, b["input_ids"])) for b in batches]
        return self._stored[split]


def _logits(model: Any, ids: Tensor) -> Tensor:
    """(batch * window, vocabulary)."""
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.flatten(0, 1)


def _surprise(logits: Tensor, normaliser: Tensor, ids: Tensor) -> Tensor:
    """(windows,): the mean next-token loss of each, nats."""
    chosen = logits.reshape(*ids.shape, -1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].float()
    return (normaliser.reshape(ids.shape)[:, :-1] - chosen).mean(-1)
