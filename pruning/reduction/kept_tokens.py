"""Which tokens are left at each stage of a model that drops tokens, read from one pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pruning.reduction.hooks import BlockEntry, TokenHooks
from pruning.reduction.sequence import Sequence
from search_spaces.schedule import Stage


@dataclass(frozen=True)
class Survivors:
    """What one stage leaves of the droppable tokens: `kept` (batch, droppable tokens) of bool, in their order."""

    stage: Stage
    kept: Tensor


def find_survivors(model: Any, inputs: Mapping[str, Tensor]) -> tuple[Survivors, ...]:
    """Run a reduced model on a batch, and tell which droppable tokens reach the block of every stage.

    Args:
        model: from `prune` with an architecture that drops tokens.
        inputs: keyword inputs of the model; every row has as many droppable tokens.

    Returns:
        One entry per stage that acts, in order of depth; none where no tokens are dropped.

    Raises:
        BadData: as `TokenLayout.read` says.
    """
    entries = {
        module: hook
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, BlockEntry)
    }
    survivors: dict[int, Survivors] = {}
    handles = [
        module.register_forward_hook(partial(_read, survivors, entry.hooks, entry.index))
        for module, entry in entries.items()
        if entry.index in entry.hooks.steps
    ]
    fixed = {"use_cache": False} if any(entry.hooks.causal for entry in entries.values()) else {}
    try:
        with torch.inference_mode():
            getattr(model, "base_model", model)(**inputs, **fixed)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(survivors[index] for index in sorted(survivors))


def _read(
    survivors: dict[int, Survivors],
    hooks: TokenHooks,
    position: int,
    module: nn.Module,
    args: tuple[Any, ...],
    output: Any,
) -> None:
    """After the block of a stage: the tokens that it worked on."""
    if hooks.whole is None:
        return
    stage = hooks.steps[position].stage
    survivors[position] = Survivors(stage, _select_droppable(hooks.whole, hooks.now or hooks.whole, len(args[0])))


def _select_droppable(whole: Sequence, now: Sequence, batch: int) -> Tensor:
    """(batch, droppable) of bool; padding counts as droppable (see `Droppable.count`)."""
    kept = torch.zeros(batch, whole.total, dtype=torch.bool, device=now.indices.device)
    kept.scatter_(1, now.indices.expand(batch, -1), True)
    droppable = ~whole.protected.expand(batch, -1)
    return kept[droppable].reshape(batch, -1).cpu()
