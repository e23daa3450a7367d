"""Drafts of a language model: how many of the tokens that its parent would write they would write, too."""

from typing import Any

import torch
from torch import Tensor

from nas.data.dataset import Dataset
from nas.quality.language import count_windows
from nas.quality.quality import Quality


class AcceptanceEvaluator:
    """The share of positions at which the likeliest next token is the parent's.

    So many tokens of a draft does a parent accept that writes the likeliest one each time (Leviathan, Kalman and
    Matias, ICML 2023), as far as the texts are like those that it writes.
    """

    metric = "acceptance"
    higher_is_better = True
    words = "share of next tokens that are the parent's, the likeliest of either"

    def __init__(self, parent: Any, dataset: Dataset) -> None:
        """`parent` is kept; its tokens are computed when a split is first asked for."""
        self.dataset, self._parent = dataset, parent
        self._stored: dict[str, Tensor] = {}  # (windows, tokens)

    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """The acceptance of `model`; its loss is the share that is not accepted."""
        own = self._choose_tokens(model, split, items, start)
        rejected = (own != self._choose_parent_tokens(split)[start : start + len(own)]).double().mean(1)
        loss = float(rejected.mean())
        return Quality(self.metric, 1 - loss, True, split, loss, {}, len(own), tuple(rejected.tolist()))

    def _choose_parent_tokens(self, split: str) -> Tensor:
        if split not in self._stored:
            self._stored[split] = self._choose_tokens(self._parent, split, None, 0)
        return self._stored[split]

    @torch.inference_mode()
    def _choose_tokens(self, model: Any, split: str, items: int | None, start: int) -> Tensor:
        """(windows, tokens): the likeliest after each position."""
        windows = self.dataset.get_split(split)
        batches = windows.iterate_batches(count_windows(self._parent, windows), items, start)
        return torch.cat([model(**batch, use_cache=False).logits.argmax(-1) for batch in batches])
