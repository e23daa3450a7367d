"""What an architecture holds in memory: weights, cached keys and values, activations at their peak.

Arithmetic from the model's sizes. A runtime adds its own: code, workspaces, what its allocator keeps.
"""

from dataclasses import dataclass

from latency_models.reduction import block_workloads
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
    seen = block_workloads(shape, architecture, workload)
    reached = sum(_cached_tokens(shape, layer, seen[layer]) for layer in attentions)
    cache = 2 * workload.batch * reached * shape.kv_heads * shape.head_dim
    elements = (weights, cache, _peak_activations(shape, architecture, workload))
    return Memory(*(bytes_per_element * count for count in elements))


def _cached_tokens(shape: ModelShape, layer: int, workload: Workload) -> int:
    """Of one sequence; without a cache (`forward`) none."""
    if workload.phase is Phase.FORWARD:
        return 0
    length, window = workload.past + workload.sequence, shape.window[layer]
    return length if window is None else min(length, window)


def _peak_activations(shape: ModelShape, architecture: Architecture, workload: Workload) -> int:
    """Elements: the residual stream in and out of a unit, and what the hungriest unit or the head holds beside it."""
    seen = block_workloads(shape, architecture, workload)
    units = (_unit_activations(shape, unit.kind, seen[unit.layer]) for unit in kept_units(architecture))
    return max(2 * workload.tokens * shape.hidden, _head_activations(shape, workload, seen[-1]), *units)


def _unit_activations(shape: ModelShape, kind: Kind, workload: Workload) -> int:
    tokens = workload.tokens
    if kind is Kind.MLP:
        held = tokens * (2 if shape.gated else 1) * shape.intermediate * shape.active_experts
    else:
        projected = tokens * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)  # queries, keys, values, their sum
        held = projected + tokens * shape.heads * (workload.past + workload.sequence)
    return 2 * tokens * shape.hidden + held


def _head_activations(shape: ModelShape, workload: Workload, last: Workload) -> int:
    """A decoder's head sees what the last block works on; an encoder's output has its full length again."""
    tokens = last.tokens if shape.causal else workload.tokens
    rows = tokens if shape.head_per_token and workload.phase is not Phase.PREFILL else workload.batch
    return 2 * tokens * shape.hidden + rows * shape.outputs
