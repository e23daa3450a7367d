"""What the outputs of a classification head mean, as its config says: classes, labels of their own, or scores."""

from enum import StrEnum
from typing import Any

from search_spaces.errors import ModelError


class ProblemType(StrEnum):
    """How a row of outputs is read: one class of several, every label by itself, or numbers (regression, rewards)."""

    CLASSES = "single_label_classification"
    LABELS = "multi_label_classification"
    SCORES = "regression"


def read_problem_type(config: Any) -> ProblemType:
    """The `problem_type` of a config; where it has none, one output is a score and several are classes.

    These are the rules of Transformers' own heads and pipelines. Rerankers and reward models have one output.

    Raises:
        ModelError: another word.
    """
    named = getattr(config, "problem_type", None)
    if named is None:
        return ProblemType.SCORES if getattr(config, "num_labels", 0) == 1 else ProblemType.CLASSES
    try:
        return ProblemType(named)
    except ValueError:
        names = ", ".join(ProblemType)
        raise ModelError(f"problem_type {named!r} in the model's config is none of {names}; correct it") from None
