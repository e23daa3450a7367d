"""What can be asked about the token reduction of a model."""

from itertools import count
from typing import Any

from pruning.reduction.hooks import BlockEntry, TokenHooks
from pruning.reduction.layout import Group
from pruning.reduction.recycle import contextual_of
from search_spaces.tokens import Reducer


def token_hooks(model: Any) -> TokenHooks | None:
    """The hooks of a model that drops tokens; None for any other."""
    entries = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    return next((hook.hooks for hook in entries if isinstance(hook, BlockEntry)), None)


def always_kept(model: Any) -> int:
    """How many words of a prompt stay whatever the schedule: shorter prompts lose nothing. 0 for other inputs."""
    hooks = token_hooks(model)
    if hooks is None or hooks.layout.group is not Group.PROMPT:
        return 0
    return hooks.layout.sinks + hooks.layout.recent


def words_to_trace(model: Any) -> int:
    """How many words beside those that always stay a trace needs, so that every stage recycles into two tokens or more.

    A single one would be taken for a size that is fixed. 0 where nothing is recycled, or the number of tokens is fixed.
    """
    hooks = token_hooks(model)
    if hooks is None or hooks.reduction.reducer is not Reducer.RECYCLE:
        return 0
    if hooks.layout.group in (Group.IMAGES, Group.PATCHES):
        return 0
    smallest = min((step.stage for step in hooks.acting), key=lambda stage: stage.permille)
    return 1 + next(words for words in count(1) if contextual_of(smallest.kept(words)) > 1)
