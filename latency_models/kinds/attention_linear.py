"""Attentions with a linear map in their place: one square matrix."""

from dataclasses import replace

from latency_models.block_shape import BlockShape, LinearShape
from latency_models.kinds.cost import Cost
from latency_models.shape import ModelShape


class _LinearStandIn(Cost):
    def resolve(self, shape: ModelShape, block: BlockShape, value: int) -> BlockShape:
        return replace(block, attention=LinearShape(shape.hidden**2))


COST = _LinearStandIn()
