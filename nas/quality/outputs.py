"""Heads with one row of outputs per item: a candidate's rows, and the parent's, which are computed once per split."""

from typing import Any

import torch
from torch import Tensor

from nas.data.dataset import Dataset
from search_spaces.errors import ModelError

_BATCH = 64


class HeadOutputs:
    """The logits of a parent and of its candidates, in fp32."""

    def __init__(self, parent: Any, dataset: Dataset) -> None:
        """`parent` is kept; its outputs are computed when a split is first asked for."""
        self.dataset, self._parent = dataset, parent
        self._stored: dict[str, Tensor] = {}

    def get_parent_outputs(self, split: str) -> Tensor:
        """(items, ...) of all items of a split."""
        if split not in self._stored:
            self._stored[split] = self._compute_logits(self._parent, split, None, 0)
        return self._stored[split]

    def pair(self, model: Any, split: str, items: int | None, start: int) -> tuple[Tensor, Tensor]:
        """Rows of a candidate and of its parent, of the first `items` items from `start` on.

        Raises:
            ModelError: the candidate has another number of outputs.
        """
        parent = self.get_parent_outputs(split)
        own = self._compute_logits(model, split, items, start)
        if own.shape[1:] != parent.shape[1:]:
            raise ModelError(
                f"the model gives {tuple(own.shape[1:])} outputs for an item and its parent {tuple(parent.shape[1:])}; "
                "compare it with the parent that it was made from"
            )
        return own, parent[start : start + len(own)]

    @torch.inference_mode()
    def _compute_logits(self, model: Any, split: str, items: int | None, start: int) -> Tensor:
        batches = self.dataset.get_split(split).iterate_batches(_BATCH, items, start)
        return torch.cat([model(**batch).logits.float() for batch in batches])
