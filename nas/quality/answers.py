"""Vision-language models: KL of the answer's first word to the parent's, and exact answers."""

from typing import Any

import torch
from torch import Tensor

from nas.data.dataset import Dataset
from nas.data.prompts import IGNORED
from nas.quality.distribution import StoredDistribution
from nas.quality.quality import Quality

_BATCH = 16


class AnswerEvaluator:
    """The share of questions that are answered exactly, word by word the likeliest (greedy).

    The loss is the mean KL(parent || candidate) of the answer's first token, in nats: smooth, so that a search sees
    what a candidate loses before an answer turns. Longer answers are generated as they are when the model is used, for
    the questions whose first token is right: the question is read once, which decides which tokens stay where some
    are dropped, then the answer is continued from the cache.
    """

    metric = "accuracy"
    higher_is_better = True
    words = "KL of the answers' first token to the parent's, in nats; exact answers beside it"

    def __init__(self, parent: Any, dataset: Dataset) -> None:
        """`parent` is kept; its distributions are computed when a split is first asked for."""
        self.dataset, self._parent = dataset, parent
        self._stored: dict[str, tuple[StoredDistribution, Tensor]] = {}  # of the first token, and the likeliest

    @torch.inference_mode()
    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """Exact answers, agreement with the parent on the first token, and KL."""
        data = self.dataset.get_split(split)
        stored, chosen = self._evaluate_parent(split)
        logits: list[Tensor] = []
        exact: list[Tensor] = []
        for batch in data.iterate_batches(_BATCH, items, start):
            logits.append(_predict_next(model, batch))
            at = start + sum(map(len, exact))
            wanted = _read_labels(data.labels, at, len(logits[-1]))
            exact.append(_check_exact(model, batch, logits[-1], wanted))
        own = torch.cat(logits)
        per_item = stored.select(slice(start, start + len(own))).compute_divergence(own)
        agreement = float((own.argmax(-1) == chosen[start : start + len(own)]).float().mean())
        loss, share = float(per_item.mean()), float(torch.cat(exact).float().mean())
        others = {"kl": loss, "agreement": agreement}
        return Quality(self.metric, share, True, split, max(loss, 0.0), others, len(own), tuple(per_item.tolist()))

    def _evaluate_parent(self, split: str) -> tuple[StoredDistribution, Tensor]:
        if split not in self._stored:
            batches = self.dataset.get_split(split).iterate_batches(_BATCH)
            logits = torch.cat([_predict_next(self._parent, batch) for batch in batches])
            self._stored[split] = StoredDistribution.of(logits), logits.argmax(-1)
        return self._stored[split]


def _read_labels(labels: Tensor | None, start: int, count: int) -> Tensor:
    assert labels is not None, "questions have answers"
    return labels[start : start + count]


def _predict_next(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """(batch, vocabulary): of the token after the last."""
    logits: Tensor = model(**batch, use_cache=False, logits_to_keep=1).logits
    return logits[:, -1]


def _check_exact(model: Any, batch: dict[str, Tensor], first: Tensor, wanted: Tensor) -> Tensor:
    """(batch,) whether the likeliest tokens are the wanted ones (batch, tokens), which end at IGNORED."""
    right = first.argmax(-1) == wanted[:, 0]
    longer = wanted[:, 1:] != IGNORED
    going = (right & longer.any(1)).nonzero()[:, 0]
    if len(going):
        answers = _generate(model, _select_items(batch, going), wanted.shape[1])
        right[going] = ((answers == wanted[going]) | (wanted[going] == IGNORED)).all(1)
    return right


def _generate(model: Any, batch: dict[str, Tensor], count: int) -> Tensor:
    """(batch, count) tokens, each the likeliest after those before it; nothing else that a model asks for counts."""
    from transformers import GenerationConfig

    own, numbered = model.generation_config, {"position_ids"}  # it numbers tokens by the mask, as the data is
    model.generation_config = GenerationConfig()
    try:
        given = {name: tensor for name, tensor in batch.items() if name not in numbered}
        tokens: Tensor = model.generate(**given, max_new_tokens=count, do_sample=False)
    finally:
        model.generation_config = own
    return tokens[:, -count:]


def _select_items(batch: dict[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    """Some items of a batch; images have several rows an item."""
    count = len(batch["input_ids"])
    return {name: value.reshape(count, -1, *value.shape[1:])[chosen].flatten(0, 1) for name, value in batch.items()}
