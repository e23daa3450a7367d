"""What can be asked about the token reduction of a model."""

import itertools
from collections.abc import Sequence
from itertools import count
from typing import Any

from pruning.reduction.hooks import BlockEntry, TokenHooks
from pruning.reduction.layout import Group
from pruning.reduction.merge import plan_rounds
from pruning.reduction.recycle import count_contextual
from search_spaces.level import THOUSAND
from search_spaces.schedule import Reducer, Stage

LENGTHS = 4096  # looked through for the most rounds: few tokens take the most, as shares are rounded down


def find_token_hooks(model: Any) -> TokenHooks | None:
    """The hooks of a model that drops tokens; None for any other."""
    entries = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    return next((hook.hooks for hook in entries if isinstance(hook, BlockEntry)), None)


def count_always_kept(model: Any) -> int:
    """How many words of a prompt stay whatever the schedule: shorter prompts lose nothing. 0 for other inputs."""
    hooks = find_token_hooks(model)
    if hooks is None or hooks.layout.group is not Group.PROMPT:
        return 0
    return hooks.layout.sinks + hooks.layout.recent


def count_words_to_trace(model: Any) -> int:
    """How many words beside those that always stay a trace needs, so that its file is right at every length.

    Every stage has to recycle into two tokens or more, as a single one would be taken for a size that is fixed; and to
    merge in as many rounds as any length takes, but for the one that a trace adds. 0 where neither is done, or the
    number of tokens is fixed.
    """
    hooks = find_token_hooks(model)
    if hooks is None or hooks.layout.group in (Group.IMAGES, Group.PATCHES):
        return 0
    stages = sorted((step.stage for step in hooks.acting), key=lambda stage: stage.block)
    match hooks.reduction.reducer:
        case Reducer.RECYCLE:
            return 1 + next(words for words in count(1) if count_contextual(stages[-1].count_kept(words)) > 1)
        case Reducer.MERGE:
            return 1 + _count_words_to_merge(stages)
        case _:
            return 0


def _count_words_to_merge(stages: Sequence[Stage]) -> int:
    """The fewest of which every stage leaves two or more, in at most one round less than the most that there are."""

    def list_numbers(words: int) -> list[int]:
        left = [words, *(stage.count_kept(words) for stage in stages)]
        return [len(plan_rounds(before, after)) for before, after in itertools.pairwise(left)]

    max_numbers = [max(each) for each in zip(*map(list_numbers, range(1, LENGTHS)), strict=True)]
    return next(
        words
        for words in count(1)
        if words * stages[-1].permille >= 2 * THOUSAND
        and all(here + 1 >= need for here, need in zip(list_numbers(words), max_numbers, strict=True))
    )
