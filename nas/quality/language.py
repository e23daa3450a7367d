"""Language models: KL of the next-token distribution to the parent's, and perplexity."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.data.dataset import Dataset, Split
from nas.quality.distribution import StoredDistribution, average_divergences, compute_log_normaliser
from nas.quality.parent_outputs import ParentOutputs
from nas.quality.quality import Quality
from pruning.anatomy.language_model import find_language_config

_BATCH = 4  # windows at a time, at most
_LOGITS = 1 << 26  # of a batch; vocabularies of 128 k and more are judged window by window


class LanguageEvaluator:
    """Mean KL(parent || candidate) per token, in nats, over all positions of the windows."""

    metric = "kl"
    higher_is_better = False
    words = "KL of the distribution of every next token to the parent's, in nats"

    def __init__(self, parent: Any, dataset: Dataset, folder: Path | None = None) -> None:
        """`parent` is kept; its distributions are computed when a split is first asked for.

        Args:
            folder: where those of a large vocabulary are kept for later searches; None for nowhere.
        """
        self.dataset, self._parent = dataset, parent
        self._kept = ParentOutputs(folder)
        self._stored: dict[str, list[StoredDistribution]] = {}  # one a window

    @torch.inference_mode()
    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """KL and perplexity of `model`."""
        losses: list[Tensor] = []
        surprises: list[Tensor] = []
        stored = self._evaluate_parent(split)
        data = self.dataset.get_split(split)
        for windows in data.iterate_batches(count_windows(self._parent, data), items, start):
            ids = windows["input_ids"]
            for window, logits in zip(ids, _compute_logits(model, ids), strict=True):
                normaliser = compute_log_normaliser(logits)
                losses.append(stored[start + len(losses)].compute_divergence(logits, normaliser).mean())
                surprises.append(_compute_surprise(logits, normaliser, window))
        return average_divergences(losses, surprises, split)

    def _evaluate_parent(self, split: str) -> list[StoredDistribution]:
        if split not in self._stored:
            items = self.dataset.get_split(split)
            self._stored[split] = self._kept.get(items, lambda: self._compute_parent(items))
        return self._stored[split]

    def _compute_parent(self, split: Split) -> list[StoredDistribution]:
        batches = split.iterate_batches(count_windows(self._parent, split))
        return [
            StoredDistribution.of(logits) for b in batches for logits in _compute_logits(self._parent, b["input_ids"])
        ]


def count_windows(model: Any, split: Split) -> int:
    """How many windows run together, so that their logits take little memory."""
    vocabulary: int = find_language_config(model).vocab_size
    length = int(split.inputs["input_ids"].shape[1])
    return max(1, min(_BATCH, _LOGITS // (length * vocabulary)))


def _compute_logits(model: Any, ids: Tensor) -> Tensor:
    """(batch, window, vocabulary)."""
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _compute_surprise(logits: Tensor, normaliser: Tensor, ids: Tensor) -> Tensor:
    """The mean next-token loss of a window (window,), nats."""
    chosen = logits[:-1].gather(-1, ids[1:, None])[..., 0].float()
    return (normaliser[:-1] - chosen).mean()
