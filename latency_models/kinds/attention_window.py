"""Windows of attention: less of the past to keep, to read and to compare with."""

from dataclasses import replace

from latency_models.block_shape import AttentionShape, BlockShape
from latency_models.kinds.cost import Cost
from latency_models.shape import ModelShape
from search_spaces.kinds.attention_window import count_held


class _Windowed(Cost):
    def resolve(self, shape: ModelShape, block: BlockShape, value: int) -> BlockShape:
        """The past is bounded; among new tokens all pairs are computed, and those out of sight masked."""
        attention = block.attention
        if not isinstance(attention, AttentionShape) or not attention.pair:
            return block
        return replace(block, attention=replace(attention, held=count_held(value)))


COST = _Windowed()
