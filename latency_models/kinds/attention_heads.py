"""Fewer heads: less to project, to compare and to keep."""

from dataclasses import replace

from latency_models.block_shape import AttentionShape, BlockShape
from latency_models.kinds.cost import Cost
from latency_models.shape import ModelShape
from search_spaces.kinds.attention_heads import count_groups


class _FewerHeads(Cost):
    def resolve(self, shape: ModelShape, block: BlockShape, value: int) -> BlockShape:
        """Everything shrinks with the groups of heads; what computes no pairs of tokens, or shares all keys, stays."""
        attention = block.attention
        if not isinstance(attention, AttentionShape) or not attention.pair:
            return block
        groups = attention.count_groups()
        kept = count_groups(groups, value)
        names = ("weights", "heads", "pair", "cached", "extra", "past")
        left = {name: getattr(attention, name) * kept // groups for name in names}
        return replace(block, attention=replace(attention, **left))


COST = _FewerHeads()
