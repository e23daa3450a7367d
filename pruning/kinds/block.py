"""Whole blocks that are dropped: they are taken out of the list of blocks, so that nothing stands in them."""

from torch import nn

from pruning.anatomy.contribution import BlockAnatomy
from pruning.anatomy.probe import Call
from pruning.kinds.surgery import Surgery
from search_spaces.level import DROP, Level


class _RemovedBlock(Surgery):
    def find_levels(self, call: Call, anatomy: BlockAnatomy) -> tuple[Level, ...]:
        return (DROP,)

    def count_saved(self, block: nn.Module, anatomy: BlockAnatomy, level: Level) -> int:
        return sum(parameter.numel() for parameter in block.parameters())


SURGERY = _RemovedBlock()
