"""Fewer experts: less to read and to keep; a token goes through as many as before, while there are as many."""

from dataclasses import replace

from latency_models.block_shape import BlockShape, MlpShape
from latency_models.kinds.cost import Cost
from latency_models.shape import ModelShape
from search_spaces.kinds.mlp_experts import count_experts


class _FewerExperts(Cost):
    def resolve(self, shape: ModelShape, block: BlockShape, value: int) -> BlockShape:
        """Experts are gone with their rows of the router; an MLP without experts stays as it is."""
        mlp = block.mlp
        if not isinstance(mlp, MlpShape) or not mlp.experts:
            return block
        kept = count_experts(mlp.experts, value)
        active = min(mlp.active, kept)
        dense = max(0, mlp.dense - shape.hidden * (mlp.experts - kept))
        inner = mlp.inner * active // mlp.active if mlp.active else mlp.inner
        return replace(block, mlp=replace(mlp, experts=kept, active=active, dense=dense, inner=inner))


COST = _FewerExperts()
