"""Narrower MLPs: fewer neurons between the same inputs and outputs."""

from dataclasses import replace

from latency_models.block_shape import BlockShape, MlpShape
from latency_models.kinds.cost import Cost
from latency_models.shape import ModelShape
from search_spaces.kinds.mlp_width import count_neurons


class _Narrowed(Cost):
    def resolve(self, shape: ModelShape, block: BlockShape, value: int) -> BlockShape:
        """Its matrices and what lies between them shrink with the neurons; a mixture of experts stays as it is."""
        mlp = block.mlp
        if not isinstance(mlp, MlpShape) or mlp.experts:
            return block
        neurons, _ = mlp.find_width(shape.hidden)
        kept = count_neurons(neurons, value)
        dense, inner, extra = (count * kept // neurons for count in (mlp.dense, mlp.inner, mlp.extra))
        return replace(block, mlp=replace(mlp, dense=dense, inner=inner, extra=extra))


COST = _Narrowed()
