"""What an architecture holds in memory: weights, cached keys and values, activations at their peak.

Arithmetic from the model's sizes. A runtime adds its own: code, workspaces, what its allocator keeps.
"""

from dataclasses import dataclass

from latency_models.shape import ModelShape
from latency_models.terms import kept_units
from latency_models.workload import Phase, Workload
from search_spaces.architecture import Architecture
from search_spaces.unit import Kind


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        weights: every parameter, of a mixture all experts; small vectors (norms, biases) are left out.
        cache: keys and values at the end of the workload, within each attention's window.
        activations: the largest set that is alive at once, attention scores included.
    """

    weights: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.cache + self.activations


def memory(shape: ModelShape, architecture: Architecture, workload: Workload, bytes_per_element: int) -> Memory:
    """The memory of an architecture under a workload."""
    kept = kept_units(architecture)
    attentions = [unit.layer for unit in kept if unit.kind is Kind.ATTENTION]
    mlps = len(kept) - len(attentions)
    weights = shape.stem + len(attentions) * shape.attention_weights + mlps * shape.experts * shape.expert_weights
    reached = sum(_cached_tokens(shape, layer, workload) for layer in attentions)
    cache = 2 * workload.batch * reached * shape.kv_heads * shape.head_dim
    elements = (weights, cache, _peak_activations(shape, bool(attentions), bool(mlps), workload))
    return Memory(*(bytes_per_element * count for count in elements))


def _cached_tokens(shape: ModelShape, layer: int, workload: Workload) -> int:
    """Of one sequence; without a cache (`forward`) none."""
    if workload.phase is Phase.FORWARD:
        return 0
    length, window = workload.past + workload.sequence, shape.window[layer]
    return length if window is None else min(length, window)


def _peak_activations(shape: ModelShape, attention: bool, mlp: bool, workload: Workload) -> int:
    """Elements: the residual stream in and out of a unit, and what the hungriest unit or the head holds beside it."""
    tokens, stream = workload.tokens, 2 * workload.tokens * shape.hidden
    projected = tokens * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)  # queries, keys, values, their sum
    scores = workload.tokens * shape.heads * (workload.past + workload.sequence)
    inner = tokens * (2 if shape.gated else 1) * shape.intermediate * shape.active_experts
    rows = tokens if shape.head_per_token and workload.phase is not Phase.PREFILL else workload.batch
    return stream + max(attention * (projected + scores), mlp * inner, rows * shape.outputs)
