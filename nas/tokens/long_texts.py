"""Texts as long as the workload's, where levels lose more on longer ones: a window of attention that texts fit loses
nothing on them."""

from collections.abc import Iterable

from latency_models.workload import Workload
from nas.parent.parent import ParentModel
from nas.quality.evaluator import Evaluator, choose_evaluator
from pruning.anatomy.part import is_vision_language
from search_spaces.errors import UsageError
from search_spaces.kinds import KINDS
from search_spaces.unit import Choice, list_kinds


def needs_long_texts(choices: Iterable[Choice]) -> bool:
    """Whether any of these levels is judged on texts as long as the workload's."""
    return any(KINDS[name].by_length for choice in choices for name in list_kinds(choice))


def build_long_evaluator(parent: ParentModel, workload: Workload) -> Evaluator:
    """Who judges candidates on texts with as many tokens as a sequence has at the end of the workload.

    Raises:
        UsageError: the model reads more than texts, or predicts no words.
        BadData: the model does not read so many tokens, or the data does not fill such texts.
    """
    if not parent.is_language_model or is_vision_language(parent.model):
        raise UsageError(
            f"{parent.id}: windows of attention are judged on long texts, and it is no language model; leave "
            "attention-window out of --units"
        )
    return choose_evaluator(parent.placed, parent.read_dataset(workload.past + workload.sequence))
