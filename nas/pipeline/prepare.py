"""Preparing a search: the parent, its space, its evaluator, the device and the latency model."""

from latency_models.targets import Target, find_target
from latency_models.workload import Workload
from nas.certification.search_context import SearchContext
from nas.execution.cluster import list_offered_resources
from nas.execution.device_node import Node
from nas.execution.worker import LocalExecutor
from nas.export.images import check_tower_file
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel, load_parent_model
from nas.parent.running_cost import check_memory
from nas.pipeline.channel_orders import order_parent_channels
from nas.pipeline.compensation import plan_compensation
from nas.pipeline.draft_evaluator import build_draft_evaluator
from nas.pipeline.evaluator import build_evaluator, open_cluster
from nas.pipeline.level_steps import restrict_to_steps
from nas.pipeline.precision import (
    calibrate_formats,
    check_precision_runs,
    compare_parts,
    describe_speeds,
    list_precision_units,
    restrict_to_fast_formats,
    restrict_to_sound_formats,
    searches_formats,
)
from nas.pipeline.savable import restrict_to_savable
from nas.profiling.choose_workload import choose_default_workload, choose_workload
from nas.profiling.device import Device, RemoteDevice, ThisMachine
from nas.profiling.kit import Kit
from nas.profiling.latency_model import load_latency_model
from nas.profiling.profile_store import fit_device_model
from nas.profiling.ssh import Transport
from nas.progress import Progress
from nas.quality import Evaluator
from nas.quality.precision import choose_precision
from nas.request.choices import DRAFT, FULL, OFF, SEARCH
from nas.request.search_request import SearchRequest
from nas.search.methods import TOKEN_METHODS, WIDTH_METHODS
from nas.tokens.profiled_schedules import choose_best_reduction
from nas.tokens.space import (
    add_tokens,
    build_evaluator_of_space,
    check_workload,
    choose_workload_with_tokens,
    keep_tokens_only,
)  # fmt: skip
from pruning.analysis.channel_orders import DEFAULT_CRITERION, find_cut_modules
from pruning.compensation.candidate_builder import BIAS, CandidateBuilder
from search_spaces.architecture import Architecture
from search_spaces.errors import UsageError
from search_spaces.kinds import DEFAULT_UNITS, KINDS
from search_spaces.servable import restrict
from search_spaces.space import Space

_TRIED = 4  # calibration items on which formats are tried


def prepare(request: SearchRequest, progress: Progress, transport: Transport | None = None) -> SearchContext:
    """Load the parent, get the latency model, resolve the budget.

    Args:
        transport: to the target, where it is at hand; it is profiled first where it was not yet.

    Raises:
        NasError: any of its kinds, for what the user gave.
    """
    target = find_target(request.target)
    if target.note:
        progress.show_message(f"target: {target.note}")
    with progress.open_stage("loading the model"):
        parent = load_parent_model(
            request.model, request.data, request.trust_remote_code, request.device, request.stream, request.part
        )
    check_memory(parent, request.prefix_cache_bytes)
    workload, space = resolve_space(request, parent, target)
    say_what_fits(request, parent, target, workload, progress)
    if request.precision != FULL or searches_formats(space):
        for line in describe_speeds(parent, target, compare_parts(parent, target, workload), workload):
            progress.show_message(line)
    with progress.open_stage("reading the data"):
        if request.goal == DRAFT:
            evaluator: Evaluator = build_draft_evaluator(request, parent, workload)
        else:
            evaluator = build_evaluator_of_space(parent, workload, request.tokens, space)
        arithmetic = choose_precision(request.arithmetic, parent.device)
        compensation = plan_compensation(parent, evaluator, request.compensate, arithmetic)
    narrowing = WIDTH_METHODS.get(request.method)
    criterion = DEFAULT_CRITERION if narrowing is None else narrowing.criterion
    order_parent_channels(space, parent, evaluator.dataset.calibration, progress, criterion)
    if searches_formats(space):
        space = _restrict_formats(space, parent, evaluator, progress)
    cached_evaluator = build_evaluator(
        parent, evaluator, request.prefix_cache_bytes, request.verify_cache, request.arithmetic,
        storage=request.storage, cluster=open_cluster(request), compensation=compensation,
    )  # fmt: skip
    progress.show_message(f"quality: {evaluator.words}")
    executor = cached_evaluator.executor
    builder = (
        executor.builder
        if isinstance(executor, LocalExecutor)
        else CandidateBuilder(parent.placed, parent.anatomy, compensation)
    )
    export = ParentExport(parent, progress, workload.phase)
    if request.tokens == SEARCH:
        fraction = request.budget.fraction
        space = choose_best_reduction(space, export, target, workload, cached_evaluator, fraction)
    device = _find_device(parent, target, workload, export, transport or _find_node(request, target), progress, space)
    latency = load_latency_model(parent, target, workload, export, progress, space)
    if device is not None and not latency.measured:
        latency = fit_device_model(device.profile())
    space = restrict_to_steps(space, latency)
    parent_ms = latency.predict(Architecture.parent(parent.anatomy.depth), request.percentile).ms
    budget = request.budget.resolve(parent_ms)
    p = request.percentile
    progress.show_message(
        f"{parent.id} on {target.name}, {workload}: parent {parent_ms:.2f} ms (p{p}, {latency.label}); "
        f"budget {budget:.2f} ms = {budget / parent_ms:.2f} x the parent"
    )
    return SearchContext(
        request, parent, target, workload, export, device, latency, budget, space, cached_evaluator, builder
    )


def _restrict_formats(space: Space, parent: ParentModel, evaluator: Evaluator, progress: Progress) -> Space:
    """The space without formats that break a part, with words on which these are."""
    inputs = next(evaluator.dataset.calibration.iterate_batches(_TRIED))
    calibrate_formats(space, parent, inputs)
    space, broken = restrict_to_sound_formats(space, parent, inputs)
    for line in broken:
        progress.show_message(line)
    return space


def resolve_space(request: SearchRequest, parent: ParentModel, target: Target) -> tuple[Workload, Space]:
    """The workload and the space of a request.

    Raises:
        UsageError: units, tokens, workload and servable that do not go together.
        BadWorkload, ExportError: a workload that the model cannot run, or a vision tower that has no file.
        ModelError, ArchitectureError: what is left of the model could not be saved.
    """
    if request.method in TOKEN_METHODS and request.tokens != SEARCH:
        raise UsageError(f"--method {request.method} drops tokens; add --tokens {SEARCH}")
    check_stand_ins(request)
    check_tower_file(parent.model)
    usual = choose_workload_with_tokens(parent, choose_default_workload(parent, target), request.tokens)
    workload = choose_workload(parent, target, request.workload or usual)
    check_workload(parent, workload, request.tokens)
    names = tuple(dict.fromkeys((*(request.units or DEFAULT_UNITS), *list_precision_units(request.precision))))
    check_precision_runs(names, target, request.precision)
    structure = restrict(parent.anatomy.build_space(names), request.servable)
    if request.method in WIDTH_METHODS and not find_cut_modules(parent.model, parent.anatomy, structure.choices):
        raise UsageError(
            f"--method {request.method} narrows parts; add some that can be, as --units mlp-width,attention-heads"
        )
    structure = restrict_to_fast_formats(structure, parent, target, workload, request.precision)
    structure = restrict_to_savable(structure, parent, request.servable)
    space = add_tokens(structure, parent, target, workload, request.tokens, request.servable)
    return workload, space if request.units else keep_tokens_only(space)


def check_stand_ins(request: SearchRequest) -> None:
    """Refuse units in whose places stand modules that nothing would fit.

    Raises:
        UsageError: there are such units, and the request's compensation fits no weights.
    """
    names = [name for name in request.units if KINDS[name].stands_in]
    if names and request.compensate in (OFF, BIAS):
        raise UsageError(
            f"--compensate {request.compensate} fits no weights, and {', '.join(names)} of --units are nothing else; "
            "leave them out, or take --compensate auto"
        )


def say_what_fits(
    request: SearchRequest, parent: ParentModel, target: Target, workload: Workload, progress: Progress
) -> None:
    """Where nobody asked for a workload and the usual one is longer than the model's positions."""
    usual = parent.shape.choose_default_workload(small=target.is_host)
    if request.workload is None and usual.sequence > workload.sequence:
        progress.show_message(
            f"workload {workload}: the usual {usual.sequence} tokens are more than the {workload.sequence} positions "
            f"of {parent.id}"
        )


def _find_device(
    parent: ParentModel, target: Target, workload: Workload, export: ParentExport, transport: Transport | None,
    progress: Progress, space: Space,
) -> Device | None:  # fmt: skip
    """Where the target is measured, if it can be.

    Raises:
        UsageError: a transport for this machine, or for a target that no graphs are made for.
    """
    if transport is not None:
        return RemoteDevice(Kit(parent, target, workload, space=space), transport, progress)
    return ThisMachine(parent, export, workload, progress, space) if target.is_host else None


def _find_node(request: SearchRequest, target: Target) -> Transport | None:
    """A node of the cluster that has the target, under its own name or the one that was asked for."""
    if open_cluster(request) is None or target.is_host:
        return None
    offered = list_offered_resources()
    names = [name for name in (target.name, request.target) if offered.get(name, 0.0) >= 1]
    return Node(names[0]) if names else None
