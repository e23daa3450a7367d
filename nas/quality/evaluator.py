"""The contract of every evaluator, and which one fits a model."""

from pathlib import Path
from typing import Any, Protocol

import torch

from nas.data.dataset import Dataset
from nas.data.finite_outputs import check_numbers
from nas.data.problem_type import ProblemType, read_problem_type
from nas.quality.quality import Quality
from pruning.anatomy.part import is_encoder_decoder, is_vision_language
from search_spaces.errors import ModelError, UnreadableModel

_EMBEDDINGS = {"last_hidden_state", "pooler_output", "text_embeds", "image_embeds"}  # outputs of models without a head


class Evaluator(Protocol):
    """Compares models with the parent it was made for. The parent's outputs are computed once per split.

    `words` is what is compared, for people.

    Example:
        >>> evaluator: Evaluator = choose_evaluator(parent.model, parent.dataset)
        >>> loss = evaluator.evaluate(candidate, "validation", items=8).loss
    """

    metric: str
    higher_is_better: bool
    dataset: Dataset

    @property
    def words(self) -> str:
        """What is compared, in words."""

    def evaluate(self, model: Any, split: str = "validation", items: int | None = None, start: int = 0) -> Quality:
        """The quality of `model` on a split, or on its first `items` items, without those before `start`."""


def choose_evaluator(parent: Any, dataset: Dataset, folder: Path | None = None) -> Evaluator:
    """The evaluator of a parent, by what its head gives.

    Answers for vision-language models, targets for encoder-decoders, language modelling for causal heads, embedding
    fidelity for models without a head and for masked language models; for one row of outputs per item what the config's
    `problem_type` and `num_labels` say, and for one per token likewise.

    Args:
        parent: in eval mode.
        dataset: on the parent's device.
        folder: where what a parent of a large vocabulary predicts is kept for later; None for nowhere.

    Raises:
        ModelError: a head of which nothing is known: any measure of it would be a guess.
    """
    from nas.quality.answers import AnswerEvaluator
    from nas.quality.embedding import EmbeddingEvaluator
    from nas.quality.language import LanguageEvaluator
    from nas.quality.pairs import PairEvaluator

    if is_vision_language(parent):
        return AnswerEvaluator(parent, dataset)
    if is_encoder_decoder(parent):
        if parent.get_output_embeddings() is None:
            raise _build_unknown_error(parent, _read_output_shapes(parent, dataset))
        return PairEvaluator(parent, dataset)
    if parent.main_input_name == "input_ids" and "attention_mask" not in dataset.test.inputs:
        return LanguageEvaluator(parent, dataset, folder)
    given = _read_output_shapes(parent, dataset)
    if parent.get_output_embeddings() is not None:  # a masked language model
        return EmbeddingEvaluator(parent, dataset)
    if "logits" in given:
        return _build_head_evaluator(parent, dataset, given)
    if _EMBEDDINGS & given.keys():
        return EmbeddingEvaluator(parent, dataset)
    raise _build_unknown_error(parent, given)


def _build_head_evaluator(parent: Any, dataset: Dataset, given: dict[str, tuple[int, ...]]) -> Evaluator:
    from nas.quality.classification import ClassificationEvaluator
    from nas.quality.labels import LabelEvaluator
    from nas.quality.scores import ScoreEvaluator
    from nas.quality.token_labels import TokenLabelEvaluator

    outputs = getattr(parent.config, "num_labels", None)
    if given["logits"] == (1, outputs):
        match read_problem_type(parent.config):
            case ProblemType.CLASSES:
                return ClassificationEvaluator(parent, dataset)
            case ProblemType.LABELS:
                return LabelEvaluator(parent, dataset)
            case ProblemType.SCORES:
                return ScoreEvaluator(parent, dataset)
    mask = dataset.calibration.inputs.get("attention_mask")
    if mask is not None and given["logits"] == (1, mask.shape[1], outputs):
        return TokenLabelEvaluator(parent, dataset, read_problem_type(parent.config))
    raise _build_unknown_error(parent, given)


@torch.inference_mode()
def _read_output_shapes(parent: Any, dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """The shapes of a parent's outputs for one item, by name.

    Raises:
        UnreadableModel: it takes other inputs.
        ModelError: it gives no numbers.
    """
    try:
        output = parent(**next(dataset.calibration.iterate_batches(1)))
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UnreadableModel(
            f"{type(parent).__name__} does not take items one by one, as they are judged ({reason}); give a model that "
            "reads single texts or images"
        ) from error
    check_numbers(parent, output)
    return {name: tuple(value.shape) for name, value in output.items() if isinstance(value, torch.Tensor)}


def _build_unknown_error(parent: Any, given: dict[str, tuple[int, ...]]) -> ModelError:
    shapes = ", ".join(f"{name} {shape}" for name, shape in given.items())
    return UnreadableModel(
        f"{type(parent).__name__} gives {shapes} for one item, outputs of which nothing is known by which to compare "
        "them; give a classifier, a regression, reward or language model, or its trunk, saved with AutoModel"
    )
