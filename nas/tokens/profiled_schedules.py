"""Which token schedules a profile covers: those that a search with the same `--tokens` will ask about."""

from dataclasses import replace
from functools import partial

from latency_models.targets import Target
from latency_models.workload import Workload
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel
from nas.profiling.choose_workload import choose_default_workload, choose_workload
from nas.profiling.host_profile import measure_ms
from nas.profiling.token_staircase import measure_steps
from nas.progress import Progress
from nas.quality import Quality
from nas.request.choices import OFF, SEARCH
from nas.tokens.describe import describe_reduction
from nas.tokens.space import (
    add_tokens,
    build_evaluator_with_tokens,
    check_workload,
    choose_default_reduction,
    choose_workload_with_tokens,
)  # fmt: skip
from nas.tokens.strategies import Judge, find_best_reduction
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.kinds import DEFAULT_UNITS
from search_spaces.schedule import Reduction
from search_spaces.space import Space


def choose_profiled(
    parent: ParentModel, target: Target, asked: Workload | None, tokens: str, progress: Progress
) -> tuple[Workload, Space | None]:
    """The workload that is measured, and the space whose schedules are in the design; None where no tokens go.

    Where stages are searched, it is measured first which numbers of tokens take as long, and tokens are chosen as a
    search chooses them, which takes data; without any the usual strategy is taken, and a search that finds a better one
    measures again.

    Args:
        asked: the workload, if any; else the usual one, of a decoder that drops tokens a prompt.
        tokens: off, search, or a schedule as `parse_preset` reads it.

    Raises:
        UsageError: a schedule or a workload that this model cannot have.
        BadWorkload, ExportError: a workload that it cannot run.
    """
    usual = choose_workload_with_tokens(parent, choose_default_workload(parent, target), tokens)
    workload = choose_workload(parent, target, asked or usual)
    check_workload(parent, workload, tokens)
    if tokens == OFF:
        return workload, None
    if tokens == SEARCH:  # before the space: its ratios are at the ends of the steps
        measure_steps(ParentExport(parent, progress, workload.phase), target, workload, progress)
    space = add_tokens(parent.anatomy.build_space(DEFAULT_UNITS), parent, target, workload, tokens)
    return workload, space if tokens != SEARCH else _build_searched_space(space, parent, target, workload, progress)


def choose_best_reduction(
    space: Space, export: ParentExport, target: Target, workload: Workload, judge: Judge, fraction: float | None
) -> Space:
    """The space with the token selection strategy that loses least (`find_best_reduction`).

    Args:
        export: of the parent; strategies are timed by it if the target is this machine.
        judge, fraction: as `find_best_reduction` takes them.
    """
    parent, progress = export.parent, export.progress
    with progress.open_stage("comparing token selection strategies"):
        measure = partial(measure_ms, parent, export, workload) if target.is_host else None
        chosen = find_best_reduction(parent, judge, workload, fraction, measure)
    progress.show_message(f"tokens are selected by {describe_reduction(chosen)}")
    return replace(space, reduction=chosen)


def _build_searched_space(
    space: Space, parent: ParentModel, target: Target, workload: Workload, progress: Progress
) -> Space:
    if parent.data is None:
        usual: Reduction = choose_default_reduction(parent)
        progress.show_message(f"no data to compare strategies by: tokens are selected by {describe_reduction(usual)}")
        return replace(space, reduction=usual)
    evaluator = build_evaluator_with_tokens(parent, workload, SEARCH)

    def judge(architecture: Architecture, items: int | None) -> Quality:
        candidate = prune(parent.model, architecture, anatomy=parent.anatomy, share_weights=True)
        return evaluator.evaluate(candidate, items=items)

    export = ParentExport(parent, progress, workload.phase)
    return choose_best_reduction(space, export, target, workload, judge, None)
