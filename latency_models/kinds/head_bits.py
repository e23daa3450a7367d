"""Heads with weights of fewer bits: the same arithmetic in another format."""

from dataclasses import replace

from latency_models.block_shape import BlockShape
from latency_models.kinds.cost import Cost
from latency_models.shape import ModelShape
from search_spaces.kinds.head_bits import KIND


class _Quantised(Cost):
    def resolve(self, shape: ModelShape, block: BlockShape, value: int) -> BlockShape:
        if block.head is None:
            return block
        return replace(block, head=replace(block.head, precision=KIND.describe(value)))


COST = _Quantised()
