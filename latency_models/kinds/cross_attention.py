"""Cross-attentions that are dropped cost nothing."""

from dataclasses import replace

from latency_models.block_shape import BlockShape
from latency_models.kinds.cost import Cost
from latency_models.shape import ModelShape


class _Dropped(Cost):
    def resolve(self, shape: ModelShape, block: BlockShape, value: int) -> BlockShape:
        return replace(block, cross_attention=None)


COST = _Dropped()
