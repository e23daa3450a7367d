"""Encoder-decoders: KL of the next-token distribution under teacher forcing to the parent's, and perplexity."""

from typing import Any

import torch
from torch import Tensor

from nas.data.dataset import Dataset, Split
from nas.data.prompts import IGNORED
from nas.quality.distribution import StoredDistribution, average_divergences, compute_log_normaliser
from nas.quality.quality import Quality
from pruning.anatomy.encoder_decoder import count_words
from pruning.anatomy.part import Part

_BATCH = 8  # pairs at a time, at most
_LOGITS = 1 << 26  # of a batch


class PairEvaluator:
    """Mean KL(parent || candidate) per token of the target, in nats, given its true beginning.

    Whichever stack a candidate lost parts of, the whole model is judged: a pruned encoder through the parent's decoder.
    """

    metric = "kl"
    higher_is_better = False
    words = "KL of the distribution of every next token of the targets to the parent's, in nats"

    def __init__(self, parent: Any, dataset: Dataset) -> None:
        """`parent` is kept; its distributions are computed when a split is first asked for."""
        self.dataset, self._parent = dataset, parent
        self._stored: dict[str, list[StoredDistribution]] = {}  # one a pair, of the tokens that are no padding

    @torch.inference_mode()
    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """KL and perplexity of `model`."""
        data, stored = self.dataset.get_split(split), self._evaluate_parent(split)
        losses: list[Tensor] = []
        surprises: list[Tensor] = []
        for batch in data.iterate_batches(_count_pairs(self._parent, data), items, start):
            for logits in _compute_logits(model, batch):
                at = start + len(losses)
                normaliser = compute_log_normaliser(logits)
                losses.append(stored[at].compute_divergence(logits, normaliser).mean())
                surprises.append((normaliser - _pick_wanted(data, at, logits)).mean())
        return average_divergences(losses, surprises, split)

    def _evaluate_parent(self, split: str) -> list[StoredDistribution]:
        if split not in self._stored:
            data = self.dataset.get_split(split)
            batches = data.iterate_batches(_count_pairs(self._parent, data))
            self._stored[split] = [
                StoredDistribution.of(logits) for batch in batches for logits in _compute_logits(self._parent, batch)
            ]
        return self._stored[split]


def _count_pairs(parent: Any, split: Split) -> int:
    """How many pairs run together, so that their logits take little memory."""
    length = split.inputs["decoder_input_ids"].shape[1]
    return int(max(1, min(_BATCH, _LOGITS // (length * count_words(parent, Part.DECODER)))))


def _compute_logits(model: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """Of each pair (tokens, vocabulary), without padding, which is on the right."""
    logits: Tensor = model(**batch, use_cache=False).logits
    counts = batch["decoder_attention_mask"].sum(-1).tolist()
    return [row[:count] for row, count in zip(logits, counts, strict=True)]


def _pick_wanted(split: Split, at: int, logits: Tensor) -> Tensor:
    """(tokens,) the logits of the tokens that follow in the target of a pair."""
    assert split.labels is not None, "pairs have targets"
    wanted = split.labels[at]
    return logits.gather(-1, wanted[wanted != IGNORED][:, None])[:, 0].float()
