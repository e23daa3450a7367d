"""Token classifiers, such as named-entity recognisers: KL of every token's classes to the parent's."""

from typing import Any

import torch

from nas.data.dataset import Dataset
from nas.quality.distribution import StoredDistribution
from nas.quality.outputs import HeadOutputs
from nas.quality.quality import Quality


class TokenLabelEvaluator:
    """Mean KL(parent || candidate) of the classes of a text's tokens, in nats per token; padding does not count."""

    metric = "token_kl"
    higher_is_better = False
    words = "KL of the classes of every token to those of the parent, in nats"

    def __init__(self, parent: Any, dataset: Dataset) -> None:
        """`parent` is kept; its distributions are computed when a split is first asked for."""
        self.dataset, self._outputs = dataset, HeadOutputs(parent, dataset)

    @torch.inference_mode()
    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """KL, and the share of a text's tokens whose likeliest class is the parent's."""
        own, parent = self._outputs.pair(model, split, items, start)
        real = self.dataset.split(split).inputs["attention_mask"][start : start + len(own)].float()
        tokens = real.sum(-1)
        divergence = StoredDistribution.of(parent.flatten(0, 1)).divergence(own.flatten(0, 1))
        per_item = (divergence.reshape(real.shape) * real).sum(-1) / tokens
        agreeing = ((own.argmax(-1) == parent.argmax(-1)) * real).sum(-1) / tokens
        loss, others = float(per_item.mean()), {"agreement": float(agreeing.mean())}
        return Quality(self.metric, loss, False, split, max(loss, 0.0), others, len(own), tuple(per_item.tolist()))
