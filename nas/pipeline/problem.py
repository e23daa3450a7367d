"""The problem that a search solves, from what was prepared."""

from latency_models.work import count_flops
from nas.certification.search_context import SearchContext
from nas.pipeline.channel_orders import list_channels
from nas.pipeline.evaluator import list_rungs, open_cluster
from nas.pipeline.limits import list_limits
from nas.request.choices import OFF
from nas.search import Problem
from nas.search.problem import skip_prefetch
from nas.storage.redact import build_sqlite_url
from nas.tokens.space import (
    build_snapping,
    choose_default_reduction,
)  # fmt: skip
from pruning.analysis.redundancy import Redundancy

MAX_TIED = 4  # evaluated on all items together, where that takes a fit to all calibration items of each
FRONT = (0.9, 0.8, 0.7, 0.6, 0.5)  # of the parent's latency


def build_problem(context: SearchContext, redundancy: Redundancy) -> Problem:
    """What is searched, for what, with how much effort.

    Args:
        redundancy: of the parent's parts, which the one-shot rankings go by.
    """
    request, cached_evaluator = context.request, context.cached_evaluator
    return Problem(
        space=context.space,
        evaluate=cached_evaluator,
        latency=context.latency,
        budget_ms=context.budget_ms,
        percentile=request.percentile,
        redundancy=redundancy,
        rungs=list_rungs(len(cached_evaluator.evaluator.dataset.validation)),
        storage=request.storage or build_sqlite_url(request.out / "study.db"),
        study=_name_study(context),
        method=request.method,
        front=_list_front_budgets(context) if request.pareto else (),
        limits=list_limits(context),
        reduction=choose_default_reduction(context.parent),
        flops=lambda architecture: count_flops(context.parent.shape, architecture, context.workload),
        snap=build_snapping(context.parent, context.target, context.workload),
        trials=request.trials,
        batch=request.batch,
        prefetch=skip_prefetch if open_cluster(request) is None else cached_evaluator.prefetch,
        time_limit_s=request.time_limit_s,
        removes_blocks=context.builder.plan is not None,
        max_tied=Problem.max_tied if context.builder.plan is None else MAX_TIED,
        channels=list_channels(context.parent.model, context.parent.anatomy, context.space.choices),
        seed=request.seed,
    )


def _name_study(context: SearchContext) -> str:
    """Words for people, and the search's own name: in a database of many, equal requests of two people never mix."""
    request = context.request
    tokens = "" if request.tokens == OFF else f" tokens {request.tokens}"
    words = f"{context.parent.id} {context.target.name} {request.budget.text} {request.method} seed {request.seed}"
    return f"{words}{tokens} {request.id}"


def _list_front_budgets(context: SearchContext) -> tuple[float, ...]:
    """Budgets between the parent's latency and half of it."""
    parent_ms = context.latency.predict(context.space.parent, context.request.percentile).ms
    return tuple(share * parent_ms for share in FRONT)
