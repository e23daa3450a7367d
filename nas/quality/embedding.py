"""Encoders: how well a candidate keeps the parent's embeddings and the similarities between them."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nas.data.dataset import Dataset
from nas.quality.quality import Quality
from nas.quality.ranks import rank_correlation

_BATCH = 32


class EmbeddingEvaluator:
    """Mean cosine between candidate's and parent's embedding (mean-pooled over real tokens, normalised)."""

    metric = "embedding_fidelity"
    higher_is_better = True

    def __init__(self, parent: Any, dataset: Dataset) -> None:
        """`parent` is kept; its embeddings are computed when a split is first asked for."""
        self.dataset, self._parent = dataset, parent
        self._stored: dict[str, Tensor] = {}

    @torch.inference_mode()
    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """Fidelity, and Spearman's rank correlation of all pairwise similarities with the parent's."""
        if split not in self._stored:
            self._stored[split] = self._embed(self._parent, split, None, 0)
        own = self._embed(model, split, items, start)
        parent = self._stored[split][start : start + len(own)]
        per_item = 1 - (own * parent).sum(-1)
        loss = float(per_item.mean())
        others = {"spearman": _spearman(own, parent)}
        return Quality(
            self.metric, 1 - loss, True, split, max(loss, 0.0), others, len(per_item), tuple(per_item.tolist())
        )

    def _embed(self, model: Any, split: str, items: int | None, start: int) -> Tensor:
        trunk = getattr(model, "base_model", model)
        return torch.cat([embed(trunk, batch) for batch in self.dataset.split(split).batches(_BATCH, items, start)])


def embed(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """(batch, hidden): the last hidden state averaged over the real tokens and normalised."""
    hidden: Tensor = model(**batch)[0].float()
    mask = batch.get("attention_mask")
    weights = torch.ones(hidden.shape[:2]) if mask is None else mask.float()
    return normalize((hidden * weights[..., None]).sum(1) / weights.sum(1, keepdim=True), dim=-1)


def _spearman(own: Tensor, parent: Tensor) -> float:
    """Of the similarities of all pairs; 1.0 when there are fewer than three."""
    above = torch.triu_indices(len(own), len(own), offset=1)
    return rank_correlation(*((e @ e.T)[above[0], above[1]] for e in (own, parent)))
