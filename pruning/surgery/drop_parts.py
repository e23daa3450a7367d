"""Emptying a block: its attention, its MLP or both are replaced by what contributes nothing."""

from collections.abc import Collection

from torch import nn

from pruning.anatomy.contribution import BlockAnatomy
from pruning.surgery.dropped import Dropped
from search_spaces.kinds import Kind


def drop_parts(module: nn.Module, block: BlockAnatomy, kinds: Collection[Kind]) -> None:
    """Replace these parts of a block, in place, with the norms and scales that only serve them.

    Args:
        module: the block.
        block: its anatomy.
        kinds: `Kind.ATTENTION`, `Kind.MLP` or both. A norm that both read goes with both only.
    """
    for kind, other in ((Kind.ATTENTION, Kind.MLP), (Kind.MLP, Kind.ATTENTION)):
        if kind not in kinds:
            continue
        unit = block.contribution(kind)
        for path, form in zip(unit.members, unit.forms, strict=True):
            module.set_submodule(path, Dropped(form))
        for path in unit.after:
            module.set_submodule(path, nn.Identity())
        if unit.before is not None and (unit.before != block.shared_norm or other in kinds):
            module.set_submodule(unit.before, nn.Identity())
