"""What a search is bounded by beside latency: parameters, bytes of weights, bytes of keys and values."""

from latency_models.footprint import compute_memory
from nas.certification.search_context import SearchContext
from nas.export.onnx_export import LARGEST_FOLDED
from nas.parent.parent import ParentModel
from nas.request.quantities import ByteLimit
from nas.search.limit import Limit
from pruning.kinds import SURGERIES
from search_spaces.architecture import Architecture
from search_spaces.errors import UsageError
from search_spaces.unit import Choice, is_structural, list_kinds


def list_limits(context: SearchContext) -> tuple[Limit, ...]:
    """The bounds that were asked for.

    Raises:
        UsageError: a bound on keys and values, of which the workload has none.
    """
    request, parent = context.request, context.parent
    parameters, limits = parent.model.num_parameters(), []
    if request.max_parameters is not None:
        saves = {choice: float(parent.anatomy.count_parameters(choice)) for choice in parent.anatomy.choices}
        limits.append(Limit("parameters", parameters, request.max_parameters.resolve(parameters), saves))
    if request.max_bytes is not None:
        size = context.target.bytes_per_element
        whole = size * (parameters + _count_copied(parent))
        saves = {choice: _count_saved_bytes(parent, choice, size) for choice in parent.anatomy.choices}
        limits.append(Limit("bytes", whole, request.max_bytes.resolve(whole), saves))
    if request.max_cache is not None:
        limits.append(_limit_cache(context, request.max_cache))
    return tuple(limits)


def _limit_cache(context: SearchContext, limit: ByteLimit) -> Limit:
    """The bound on keys and values; what fewer tokens save is not counted, so that a cache may be smaller still.

    Raises:
        UsageError: the workload has no cache.
    """
    parent, space = context.parent, context.space.parent

    def count(architecture: Architecture) -> int:
        return compute_memory(parent.shape, architecture, context.workload, context.target.precision).cache

    whole = count(space)
    if not whole:
        raise UsageError(
            f"--max-cache {limit.text}: {context.workload} keeps no keys and values; give a workload that does, as "
            "--workload decode:batch=1,past=1024"
        )
    structural = (choice for choice in parent.anatomy.choices if is_structural(choice))
    saves = {choice: float(whole - count(space.drop(choice))) for choice in structural}
    return Limit("bytes of keys and values", whole, limit.resolve(whole), saves)


def _count_copied(parent: ParentModel) -> int:
    """Weights that a file has twice: of a head that an embedding has, too, and that are few enough to be copied."""
    tied = _count_tied(parent)
    return tied if tied <= LARGEST_FOLDED else 0


def _count_tied(parent: ParentModel) -> int:
    """Weights that head and embedding have in common."""
    return parent.shape.hidden * parent.shape.outputs if parent.shape.ties_head else 0


def _count_saved_bytes(parent: ParentModel, choice: Choice, size: int) -> float:
    """How many bytes fewer the weights take with a choice; `size` of one of the parent's.

    A head of fewer bits is written beside the weights of an embedding that it had in common with it.
    """
    (name,), place = list_kinds(choice), parent.anatomy.get_place(parent.model, choice.layer)
    stays = 0 if choice.kind.in_blocks else _count_tied(parent) - _count_copied(parent)
    return SURGERIES[name].count_saved_bytes(*place, choice.level, size) - size * stays
