"""What an architecture holds in memory: weights, cached keys and values, activations at their peak.

Arithmetic from the model's sizes. A runtime adds its own: code, workspaces, what its allocator keeps.
"""

from dataclasses import dataclass

from latency_models.shape import ModelShape
from latency_models.terms import kept_units
from latency_models.token_workloads import block_workloads
from latency_models.workload import Phase, Workload
from search_spaces.architecture import Architecture
from search_spaces.kinds import Kind
from search_spaces.unit import Unit


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        weights: every parameter, of a mixture all experts; small vectors (norms, biases) are left out.
        cache: keys and values at the end of the workload, within each attention's window, and recurrent states.
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
    mlps = [unit.layer for unit in kept if unit.kind is Kind.MLP]
    weights = shape.stem + sum(shape.block(layer).attention.weights for layer in attentions)
    weights += sum(shape.block(layer).mlp.weights for layer in mlps)
    seen = block_workloads(shape, architecture, workload)
    cache = workload.batch * sum(_cached(shape, layer, seen[layer]) for layer in attentions)
    elements = (weights, cache, _peak_activations(shape, architecture, workload))
    return Memory(*(bytes_per_element * count for count in elements))


def _cached(shape: ModelShape, layer: int, workload: Workload) -> int:
    """Elements of one sequence; without a cache (`forward`) none."""
    if workload.phase is Phase.FORWARD:
        return 0
    attention, length, window = shape.block(layer).attention, workload.past + workload.sequence, shape.window[layer]
    return attention.state + attention.cached * (length if window is None else min(length, window))


def _peak_activations(shape: ModelShape, architecture: Architecture, workload: Workload) -> int:
    """Elements: the residual stream in and out of a unit, and what the hungriest unit or the head holds beside it."""
    seen = block_workloads(shape, architecture, workload)
    units = (_unit_activations(shape, unit, seen[unit.layer]) for unit in kept_units(architecture))
    return max(2 * workload.tokens * shape.hidden, _head_activations(shape, workload, seen[-1]), *units)


def _unit_activations(shape: ModelShape, unit: Unit, workload: Workload) -> int:
    tokens, block = workload.tokens, shape.block(unit.layer)
    if unit.kind is Kind.MLP:
        held = tokens * block.mlp.inner
    else:
        projected = tokens * (block.attention.pair + block.attention.cached)  # queries, keys, values, their sum
        held = projected + tokens * block.attention.heads * (workload.past + workload.sequence)
    return 2 * tokens * shape.hidden + held


def _head_activations(shape: ModelShape, workload: Workload, last: Workload) -> int:
    """A decoder's head sees what the last block works on; an encoder's output has its full length again."""
    tokens = last.tokens if shape.causal else workload.tokens
    rows = tokens if shape.head_per_token and workload.phase is not Phase.PREFILL else workload.batch
    return 2 * tokens * shape.hidden + rows * shape.outputs
