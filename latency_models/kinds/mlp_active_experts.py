"""Fewer experts for each token: less to compute, and to read while tokens are few."""

from dataclasses import replace

from latency_models.block_shape import BlockShape, MlpShape
from latency_models.kinds.cost import Cost
from latency_models.shape import ModelShape
from search_spaces.kinds.mlp_experts import count_experts


class _FewerActive(Cost):
    def resolve(self, shape: ModelShape, block: BlockShape, value: int) -> BlockShape:
        """All experts are there; an MLP without experts, and one of which all run for every token, stay as they are."""
        mlp = block.mlp
        if not isinstance(mlp, MlpShape) or not 0 < mlp.active < mlp.experts:
            return block
        active = count_experts(mlp.active, value)
        return replace(block, mlp=replace(mlp, active=active, inner=mlp.inner * active // mlp.active))


COST = _FewerActive()
