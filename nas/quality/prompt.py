"""Prompts of a decoder: KL of the token that follows a prompt to the parent's."""

from typing import Any

import torch
from torch import Tensor

from nas.data.dataset import Dataset, Split
from nas.quality.distribution import StoredDistribution
from nas.quality.quality import Quality

_BATCH = 4  # prompts
PROMPTS = {"calibration": 8, "validation": 48, "test": 96}  # one position each says less than a whole window


class PromptEvaluator:
    """Mean KL(parent || candidate) of the distribution after the last token, in nats.

    A prompt's earlier positions are not judged: where tokens are dropped most of them are not there, and those that
    are were chosen for what the last one asks.
    """

    metric = "next_token_kl"
    higher_is_better = False
    words = "KL of the distribution of the token after each prompt to the parent's, in nats"

    def __init__(self, parent: Any, dataset: Dataset) -> None:
        """`parent` is kept; its distributions are computed when a split is first asked for."""
        self.dataset, self._parent = dataset, parent
        self._stored: dict[str, tuple[StoredDistribution, Tensor]] = {}  # and the likeliest token

    @torch.inference_mode()
    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """KL of `model`, and how often its likeliest token is the parent's."""
        stored, chosen = self._evaluate_parent(split)
        own = self._compute_logits(model, split, items, start)
        mine = slice(start, start + len(own))
        per_item = stored.select(mine).compute_divergence(own)
        loss = float(per_item.mean())
        others = {"agreement": float((own.argmax(-1) == chosen[mine]).float().mean())}
        return Quality(self.metric, loss, False, split, max(loss, 0.0), others, len(own), tuple(per_item.tolist()))

    def _evaluate_parent(self, split: str) -> tuple[StoredDistribution, Tensor]:
        if split not in self._stored:
            logits = self._compute_logits(self._parent, split, None, 0)
            self._stored[split] = StoredDistribution.of(logits), logits.argmax(-1)
        return self._stored[split]

    def _compute_logits(self, model: Any, split: str, items: int | None, start: int) -> Tensor:
        """(prompts, vocabulary), in the order of the split."""
        batches = self.dataset.get_split(split).iterate_batches(_BATCH, items, start)
        return torch.cat([model(**batch, use_cache=False, logits_to_keep=1).logits[:, -1] for batch in batches])


def build_prompts(dataset: Dataset) -> Dataset:
    """Windows of the same length, that overlap so that there are enough of them.

    Args:
        dataset: with `input_ids` (n, length) in every split.
    """
    return Dataset(**{name: _cut_overlapping(dataset.get_split(name), count) for name, count in PROMPTS.items()})


def _cut_overlapping(split: Split, count: int) -> Split:
    windows = split.inputs["input_ids"]
    length, whole = windows.shape[1], windows.flatten()
    starts = torch.linspace(0, len(whole) - length, min(count, len(whole) - length + 1)).round().long()
    return Split(split.name, {"input_ids": torch.stack([whole[start : start + length] for start in starts.tolist()])})
