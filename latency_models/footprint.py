"""What an architecture holds in memory: weights, cached keys and values, activations at their peak.

Arithmetic from the model's sizes. A runtime adds its own: code, workspaces, what its allocator keeps.
"""

from dataclasses import dataclass

from latency_models.resolved_blocks import find_parts, resolve_head
from latency_models.shape import ModelShape
from latency_models.targets import BYTES
from latency_models.token_workloads import list_block_workloads
from latency_models.work import get_element_bytes, get_weight_bytes
from latency_models.workload import Phase, Workload
from search_spaces.architecture import Architecture


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        weights: every parameter, of a mixture all experts; small vectors (norms, biases) are left out.
        cache: keys and values at the end of the workload, within each attention's window, and recurrent states.
        activations: the largest set that is alive at once, attention scores included.

    Example:
        >>> Memory(weights=4000, cache=500, activations=100).total
        4600
    """

    weights: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.cache + self.activations


def compute_memory(shape: ModelShape, architecture: Architecture, workload: Workload, precision: str) -> Memory:
    """The memory of an architecture under a workload, on a target of this precision."""
    seen, size = list_block_workloads(shape, architecture, workload), BYTES[precision]
    weights, cache = size * shape.stem + _count_head_bytes(shape, architecture, precision), 0
    alive = [size * 2 * workload.tokens * shape.hidden, size * _count_head_activations(shape, workload, seen[-1])]
    for unit, part in find_parts(shape, architecture):
        load, own = shape.compute_load(unit.layer, seen[unit.layer]), get_element_bytes(part, precision)
        weights += round(get_weight_bytes(part, precision) * part.weights)
        cache += own * workload.batch * part.count_cached(load)
        alive.append(size * 2 * load.tokens * shape.hidden + own * part.count_alive(load))  # with the residual stream
    return Memory(weights, cache, max(alive))


def count_cached_bytes_per_token(shape: ModelShape, architecture: Architecture, precision: str) -> int:
    """Bytes that each token of a sequence adds to the cache; 0 for a model that does not decode."""
    parts = [part for _, part in find_parts(shape, architecture)] if shape.causal else []
    return sum(part.cached * get_element_bytes(part, precision) for part in parts)


def _count_head_bytes(shape: ModelShape, architecture: Architecture, precision: str) -> int:
    """Bytes that the weights of a head take beyond those of the parent's, which an embedding may have as well."""
    head = resolve_head(shape, architecture)
    if head is None or head.precision is None:
        return 0
    freed = 0 if shape.ties_head else BYTES[precision]
    return round((get_weight_bytes(head, precision) - freed) * head.weights)


def _count_head_activations(shape: ModelShape, workload: Workload, last: Workload) -> int:
    """A decoder's head sees what the last block works on; an encoder's output has its full length again."""
    tokens = last.tokens if shape.causal else workload.tokens
    rows = tokens if shape.head_per_token and workload.phase is not Phase.PREFILL else workload.batch
    return 2 * tokens * shape.hidden + rows * shape.outputs
