"""Everything that a search works with."""

from dataclasses import dataclass

from latency_models.model import LatencyModel
from latency_models.targets import Target
from latency_models.workload import Workload
from nas.execution.evaluation_cache import CachedEvaluator
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel
from nas.profiling.device import Device
from nas.request.search_request import SearchRequest
from pruning.compensation.candidate_builder import CandidateBuilder
from search_spaces.space import Space


@dataclass(frozen=True)
class SearchContext:
    """What was asked for, once it has been found and loaded; handed on as one.

    Attributes:
        request: what was asked for.
        parent: the model that is pruned.
        export: its exported files.
        device: where the target is measured; None where it is not at hand.
        latency: the latency model that the search begins with.
        budget_ms: the budget by that latency model.
        cached_evaluator: evaluates candidates.
        builder: of candidates as they are delivered.

    Example:
        >>> context = prepare(SearchRequest("host", Budget.parse("0.6x"), Path("out")), progress)
        >>> ms = context.latency.predict(context.space.parent).ms
    """

    request: SearchRequest
    parent: ParentModel
    target: Target
    workload: Workload
    export: ParentExport
    device: Device | None
    latency: LatencyModel
    budget_ms: float
    space: Space
    cached_evaluator: CachedEvaluator
    builder: CandidateBuilder
