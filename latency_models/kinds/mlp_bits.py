"""MLPs with weights of fewer bits: the same arithmetic in another format."""

from dataclasses import replace

from latency_models.block_shape import BlockShape
from latency_models.kinds.cost import Cost
from latency_models.shape import ModelShape
from search_spaces.kinds.mlp_bits import KIND


class _Quantised(Cost):
    def resolve(self, shape: ModelShape, block: BlockShape, value: int) -> BlockShape:
        if block.mlp is None:
            return block
        return replace(block, mlp=replace(block.mlp, precision=KIND.describe(value)))


COST = _Quantised()
