"""What can be asked about the token reduction of a model."""

from typing import Any

from pruning.reduction.hooks import BlockEntry, TokenHooks
from pruning.reduction.layout import Group


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
