"""What the stages of a model that drops tokens leave in its cache, as tensors that cross the border of a file.

From a stage on keys and values are of fewer tokens. Beside them `prefill` hands over, and `decode` takes and hands on,
`past.{block}.mask` (batch, tokens): which of them are no padding; and `past.{block}.shift` (batch, 1), by how much the
positions of what comes are lower, where they are numbered anew. {block} is the one that the schedule names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.export.images import count_image_tokens
from pruning.inference.kv_cache import Left, PrunedCache
from pruning.reduction.inspection import find_token_hooks
from pruning.reduction.layout import Group
from search_spaces.schedule import Positions


@dataclass(frozen=True)
class CacheStage:
    """One stage.

    Attributes:
        block: of the parent, that the schedule names; by it inputs and outputs are named.
        index: of the block at which it acts, among those that are left.
        shifts: whether positions are numbered anew.
    """

    block: int
    index: int
    shifts: bool

    def name_tensors(self, prefix: str) -> tuple[str, ...]:
        """Of the mask and, where positions shift, of the shift; `prefix` is past or present."""
        mask = f"{prefix}.{self.block}.mask"
        return (mask, f"{prefix}.{self.block}.shift") if self.shifts else (mask,)


def list_cache_stages(model: Any) -> tuple[CacheStage, ...]:
    """The stages that act in the files of a model; none in files of words where image tokens are dropped."""
    hooks = find_token_hooks(model)
    if hooks is None or (hooks.layout.group is Group.IMAGES and not count_image_tokens(model)):
        return ()
    shifts = hooks.reduction.positions is Positions.COMPACTED
    return tuple(CacheStage(hooks.steps[index].stage.block, index, shifts) for index in sorted(hooks.steps))


def make_stage_tensors(cache: PrunedCache, stages: Sequence[CacheStage], mask: Tensor) -> list[Tensor]:
    """Mask and shift of every stage, of a cache after a prompt (or prompt and words) with this mask (batch, tokens).

    A stage that had nothing to drop left what the one before it did.
    """
    tensors: list[Tensor] = []
    valid, shift = mask, mask.new_zeros(mask.shape[0], 1)
    for stage in stages:
        left = cache.left.get(stage.index)
        if left is not None:
            whole = torch.ones(mask.shape[0], left.length, dtype=torch.bool)
            valid = (whole if left.valid is None else left.valid).to(mask.dtype)
            shift = shift if left.shift is None else left.shift
        tensors += [valid, shift.clone()] if stage.shifts else [valid]
    return tensors


def read_lefts(
    stages: Sequence[CacheStage], tensors: Sequence[Tensor], held: Mapping[int, Mapping[int, Any]]
) -> dict[int, Left]:
    """What a cache says of its stages, from their tensors in order.

    Args:
        held: for every stage's block, by window, how many tokens the caches within it hold.
    """
    given = iter(tensors)
    lefts = {}
    for stage in stages:
        mask = next(given)
        shift = next(given) if stage.shifts else None
        lefts[stage.index] = Left(mask.shape[1], mask.bool(), shift, held.get(stage.block, {}))
    return lefts
