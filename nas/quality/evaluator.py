"""The contract of every evaluator, and which one fits a model."""

from typing import Any, Protocol

import torch

from nas.data.dataset import Dataset
from nas.quality.quality import Quality
from pruning.language import is_vision_language


class Evaluator(Protocol):
    """Compares models with the parent it was made for. The parent's outputs are computed once per split."""

    metric: str
    higher_is_better: bool
    dataset: Dataset

    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """The quality of `model` on a split, or on its first `items` items, without those before `start`."""


def evaluator_for(parent: Any, dataset: Dataset) -> Evaluator:
    """Answers for vision-language models, language modelling for causal heads, classification for one row of logits
    per item, else embedding fidelity."""
    from nas.quality.answers import AnswerEvaluator
    from nas.quality.classification import ClassificationEvaluator
    from nas.quality.embedding import EmbeddingEvaluator
    from nas.quality.language import LanguageEvaluator

    if is_vision_language(parent):
        return AnswerEvaluator(parent, dataset)
    if parent.main_input_name == "input_ids" and "attention_mask" not in dataset.test.inputs:
        return LanguageEvaluator(parent, dataset)
    if _classifies(parent, dataset):
        return ClassificationEvaluator(parent, dataset)
    return EmbeddingEvaluator(parent, dataset)


@torch.inference_mode()
def _classifies(parent: Any, dataset: Dataset) -> bool:
    """Whether it gives (items, classes), as sequence and image classifiers do and masked language models do not."""
    output = parent(**next(dataset.calibration.batches(1)))
    logits = getattr(output, "logits", None)
    return logits is not None and logits.ndim == 2
