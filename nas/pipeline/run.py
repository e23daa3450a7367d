"""A search from the request to the result folder: the road every part of the tool is a stretch of."""

from dataclasses import dataclass, replace
from functools import partial
from uuid import uuid4

from latency_models.model import LatencyModel
from latency_models.targets import Target, find_target
from latency_models.terms import model_work
from latency_models.workload import Workload
from nas.certification.run import CertificationRun
from nas.data.documents import SPLITS
from nas.execution.cluster import Cluster, resources_offered
from nas.execution.device_node import Node
from nas.execution.evaluation_cache import CachedEvaluator
from nas.execution.worker import Bench, LocalExecutor, Worker
from nas.export.parent_export import ParentExport
from nas.figures.search import save_redundancy
from nas.parent.parent import ParentModel, load_parent_model
from nas.pipeline.delivery import Delivery
from nas.pipeline.held_out import judge_held_out
from nas.pipeline.savable import savable
from nas.pipeline.write_results import deliver, record
from nas.profiling.choose_workload import default_workload, workload_for
from nas.profiling.device import Device, RemoteDevice, ThisMachine
from nas.profiling.kit import Kit
from nas.profiling.latency_model import latency_model
from nas.profiling.profile_store import device_model
from nas.profiling.ssh import Transport, profile_there
from nas.progress import Phases, Progress, Timed, told
from nas.quality import Evaluator
from nas.quality.evaluations import Evaluations, evaluations_for
from nas.quality.precision import choose_precision
from nas.request.choices import OFF, SEARCH
from nas.request.search_request import FILE as REQUEST
from nas.request.search_request import SearchRequest
from nas.results.result import Result
from nas.search import Problem
from nas.search.limit import Limit
from nas.search.methods import TOKEN_METHODS
from nas.search.outcome import with_whole_front
from nas.search.problem import no_prefetch
from nas.search.unit_savings import describe_savings, predict_savings, predict_savings_with_loss
from nas.storage.cache_folder import cache_folder
from nas.storage.disk_errors import check_folder, check_room
from nas.storage.open_storage import check_storage
from nas.storage.redact import sqlite_url
from nas.storage.result_folder import alone_in
from nas.tokens.profiled_schedules import with_best_reduction
from nas.tokens.space import (
    check_workload,
    default_reduction,
    evaluator_with_tokens,
    snapping,
    tokens_only,
    with_tokens,
    workload_with_tokens,
)  # fmt: skip
from pruning.analysis.redundancy import Redundancy, measure_redundancy
from pruning.inference.prefix_cache import GIB
from search_spaces.architecture import Architecture
from search_spaces.errors import MachineTooBusy, UsageError
from search_spaces.kinds import STRUCTURE
from search_spaces.servable import restrict
from search_spaces.space import Space
from search_spaces.unit import Unit

FRONT = (0.9, 0.8, 0.7, 0.6, 0.5)  # of the parent's latency
RUNGS = ((1 / 8, 4), (3 / 8, 8))  # shares of the validation items that a trial is judged on, and how many at least


@dataclass(frozen=True)
class SearchContext:
    """What a search works with once everything asked for has been found and loaded.

    `device` is where the target is measured; None where it is not at hand. `scorer` judges candidates.
    """

    request: SearchRequest
    subject: ParentModel
    target: Target
    workload: Workload
    export: ParentExport
    device: Device | None
    latency: LatencyModel
    budget_ms: float
    space: Space
    scorer: CachedEvaluator


def prepare(request: SearchRequest, progress: Progress, transport: Transport | None = None) -> SearchContext:
    """Load the parent, get the latency model, resolve the budget.

    Args:
        transport: to the target, where it is at hand; it is profiled first where it was not yet.

    Raises:
        NasError: any of its kinds, for what the user gave.
    """
    target = find_target(request.target)
    if target.note:
        progress.message(f"target: {target.note}")
    with progress.stage("loading the model"):
        subject = load_parent_model(request.model, request.data, request.trust_remote_code)
    workload, space = asked(request, subject, target)
    say_what_fits(request, subject, target, workload, progress)
    with progress.stage("reading the data"):
        evaluator = evaluator_with_tokens(subject, workload, request.tokens)
    progress.message(f"quality: {evaluator.words}")
    scorer = scorer_of(
        subject, evaluator, request.prefix_cache_bytes, request.verify_cache, request.precision,
        storage=request.storage, cluster=cluster_of(request),
    )  # fmt: skip
    export = ParentExport(subject, progress, workload.phase)
    if request.tokens == SEARCH:
        fraction = request.budget.fraction
        space = with_best_reduction(space, subject, target, export, workload, scorer, fraction, progress)
    device = _device(subject, target, workload, export, transport or _node(request, target), progress, space)
    latency = latency_model(subject, target, workload, export, progress, space)
    if isinstance(device, RemoteDevice) and not latency.measured:
        latency = device_model(profile_there(device.kit, device.transport, progress))
    parent_ms = latency.predict(Architecture.parent(subject.anatomy.depth), request.percentile).ms
    budget = request.budget.resolve(parent_ms)
    p = request.percentile
    progress.message(
        f"{subject.id} on {target.name}, {workload}: parent {parent_ms:.2f} ms (p{p}, {latency.label}); "
        f"budget {budget:.2f} ms = {budget / parent_ms:.2f} x the parent"
    )
    return SearchContext(request, subject, target, workload, export, device, latency, budget, space, scorer)


def asked(request: SearchRequest, subject: ParentModel, target: Target) -> tuple[Workload, Space]:
    """The workload and the space of a request.

    Raises:
        UsageError: units, tokens, workload and servable that do not go together.
        BadWorkload, ExportError: a workload that the model cannot run.
        ModelError, ArchitectureError: what is left of the model could not be saved.
    """
    if request.method in TOKEN_METHODS and request.tokens != SEARCH:
        raise UsageError(f"--method {request.method} drops tokens; add --tokens {SEARCH}")
    usual = workload_with_tokens(subject, default_workload(subject, target), request.tokens)
    workload = workload_for(subject, target, request.workload or usual)
    check_workload(subject, workload, request.tokens)
    structure = restrict(subject.anatomy.space(request.units or STRUCTURE), request.servable)
    structure = savable(structure, subject, request.servable)
    space = with_tokens(structure, subject, target, workload, request.tokens, request.servable)
    return workload, space if request.units else tokens_only(space)


def say_what_fits(
    request: SearchRequest, subject: ParentModel, target: Target, workload: Workload, progress: Progress
) -> None:
    """Where nobody asked for a workload and the usual one is longer than the model's positions."""
    usual = subject.shape.default_workload(small=target.is_host)
    if request.workload is None and usual.sequence > workload.sequence:
        progress.message(
            f"workload {workload}: the usual {usual.sequence} tokens are more than the {workload.sequence} positions "
            f"of {subject.id}"
        )


def _device(
    subject: ParentModel, target: Target, workload: Workload, export: ParentExport, transport: Transport | None,
    progress: Progress, space: Space,
) -> Device | None:  # fmt: skip
    """Where the target is measured, if it can be.

    Raises:
        UsageError: a transport for this machine, or for a target that no graphs are made for.
    """
    if transport is not None:
        return RemoteDevice(Kit(subject, target, workload, space=space), transport, progress)
    return ThisMachine(subject, export, workload, progress, space) if target.is_host else None


def _node(request: SearchRequest, target: Target) -> Transport | None:
    """A node of the cluster that has the target, under its own name or the one that was asked for."""
    if cluster_of(request) is None or target.is_host:
        return None
    offered = resources_offered()
    names = [name for name in (target.name, request.target) if offered.get(name, 0.0) >= 1]
    return Node(names[0]) if names else None


def run(request: SearchRequest, progress: Progress, transport: Transport | None = None) -> Result:
    """The whole road; the result folder is complete when it returns.

    Args:
        transport: to the target, for one that is not this machine; None asks the cluster for a node that has it.

    Raises:
        NasError: what the user gave is wrong, nothing meets the budget, or a file cannot be made.
        MachineTooBusy: the result folder is complete, its winner is predicted.
    """
    request, timed = _as_begun(request), Timed(progress)
    _check_places(request)
    context = prepare(request, timed, transport)
    weights = sum(each.numel() * each.element_size() for each in context.subject.model.parameters())
    scarce = check_room(request.out, weights)
    if scarce:
        progress.message(scarce)
    request.save()
    with alone_in(request.out):
        try:
            return _searched(context, timed)
        finally:
            context.scorer.executor.close()


def _check_places(request: SearchRequest) -> None:
    """Find out before the work begins whether its results can be kept.

    Raises:
        UsageError: the result folder or the cache cannot be written.
        StorageUnavailable: the study's database is damaged, or cannot be reached.
    """
    check_folder(request.out, "--out")
    cache_folder()
    if request.storage or request.out.exists():  # else the study's file is made where the folder is made
        check_storage(request.storage or sqlite_url(request.out / "study.db"))


def _searched(context: SearchContext, progress: Timed) -> Result:
    request, subject = context.request, context.subject
    batches = told(progress, "analysing redundancy", list(subject.dataset.calibration.batches(4)))
    redundancy = measure_redundancy(subject.model, batches, subject.anatomy)
    save_redundancy(redundancy, request.out, subject.id)
    scorer = context.scorer
    problem = _problem(context, redundancy)
    progress.message(describe_savings(predict_savings(problem), problem.ms(problem.space.parent)))
    certification = CertificationRun(
        request, subject, context.target, context.workload, context.export, context.device, progress
    )
    outcome, problem, certificate = certification.run(problem)
    if request.pareto:
        with progress.stage("judging the front on all items"):
            outcome = with_whole_front(problem, outcome)
    known = known_of(subject, scorer.evaluator, "test", request.storage)
    with Phases(progress) as phases:
        held_out = judge_held_out(outcome, scorer, known, partial(phases.at, "judging on the test split"))
    delivery = Delivery(
        request, subject, context.target, context.workload, problem.latency, certificate.budget_ms,
        outcome, certificate, held_out, scorer.evaluations, predict_savings_with_loss(problem), context.export,
        {name: scorer.evaluator.dataset.split(name).digest for name in SPLITS},
    )  # fmt: skip
    with progress.stage("exporting the winner's files"):
        result = deliver(delivery)
    result = record(result, delivery, progress)
    if "problem" in result.mlflow:
        progress.message(result.mlflow["problem"])
    if certificate.busy:
        kept = f"; what was found is kept as predicted in {request.out} (nas certify {request.out} measures it again)"
        raise MachineTooBusy(certificate.busy, kept)
    return result


def _as_begun(request: SearchRequest) -> SearchRequest:
    """The request as it is kept in its folder, which may be continued by the same one only."""
    identity = request.id
    if (request.out / REQUEST).exists():
        earlier = SearchRequest.load(request.out)
        if not earlier.same_search(request):
            raise UsageError(
                f"{request.out} holds another search; choose another --out, or go on with it: {earlier.resume_command}"
            )
        identity = earlier.id
    return replace(request, id=identity or uuid4().hex[:12])


def scorer_of(
    subject: ParentModel,
    evaluator: Evaluator,
    cache_bytes: int = GIB,
    verify: bool = False,
    precision: str = "auto",
    items: int | None = None,
    storage: str | None = None,
    cluster: Cluster | None = None,
) -> CachedEvaluator:
    """The scorer of a subject, with what other searches found out about it.

    Args:
        items: of the validation split, where not all will be used.
        storage: where the study is kept; evaluations are kept there too where machines share it.
        cluster: who evaluates; this process where there is none.
    """
    known = known_of(subject, evaluator, "validation", storage)
    chosen = choose_precision(precision)
    bench = Bench(subject.model, subject.anatomy, evaluator, chosen, cache_bytes, verify)
    executor = LocalExecutor(Worker(bench)) if cluster is None else cluster.executor(bench)
    return CachedEvaluator(evaluator, known, executor, chosen, rungs(items or len(evaluator.dataset.validation)))


def known_of(subject: ParentModel, evaluator: Evaluator, split: str, storage: str | None) -> Evaluations:
    """What other searches found out about a subject on a split."""
    content = f"{subject.digest}/{evaluator.dataset.split(split).digest}/{evaluator.metric}"
    return evaluations_for(subject.cache / f"evaluations-{content.replace('/', '-')}.jsonl", content, storage)


def rungs(items: int) -> tuple[int, ...]:
    """How many of the validation items a trial is judged on, growing; all of them are for the last few."""
    return tuple(sorted({*(min(items, max(least, round(share * items))) for share, least in RUNGS), items}))


def _problem(context: SearchContext, redundancy: Redundancy) -> Problem:
    request, scorer = context.request, context.scorer
    return Problem(
        space=context.space,
        evaluate=scorer,
        latency=context.latency,
        budget_ms=context.budget_ms,
        percentile=request.percentile,
        redundancy=redundancy,
        rungs=rungs(len(scorer.evaluator.dataset.validation)),
        storage=request.storage or sqlite_url(request.out / "study.db"),
        study=_study_name(context),
        method=request.method,
        front=_front(context) if request.pareto else (),
        limits=_limits(context),
        reduction=default_reduction(context.subject),
        flops=lambda architecture: model_work(context.subject.shape, architecture, context.workload).flops,
        snap=snapping(context.subject, context.target, context.workload),
        trials=request.trials,
        batch=request.batch,
        prefetch=no_prefetch if cluster_of(request) is None else scorer.prefetch,
        time_limit_s=request.time_limit_s,
        seed=request.seed,
    )


def _study_name(context: SearchContext) -> str:
    """Words for people, and the search's own name: in a database of many, equal requests of two people never mix."""
    request = context.request
    tokens = "" if request.tokens == OFF else f" tokens {request.tokens}"
    words = f"{context.subject.id} {context.target.name} {request.budget.text} {request.method} seed {request.seed}"
    return f"{words}{tokens} {request.id}"


def cluster_of(request: SearchRequest) -> Cluster | None:
    """Who evaluates; None for this process."""
    if request.executor == "local":
        return None
    return Cluster(request.workers, request.worker_resources or {"CPU": 1.0})


def _limits(context: SearchContext) -> tuple[Limit, ...]:
    """The bound on parameters, where one was asked for."""
    most, subject = context.request.max_parameters, context.subject
    if most is None:
        return ()
    parent = subject.model.num_parameters()
    every = [Unit(layer, kind) for layer in range(subject.anatomy.depth) for kind in STRUCTURE]
    saves = {unit.dropped: float(subject.anatomy.parameters(unit)) for unit in every}
    return (Limit("parameters", parent, most.resolve(parent), saves),)


def _front(context: SearchContext) -> tuple[float, ...]:
    """Budgets between the parent's latency and half of it."""
    parent_ms = context.latency.predict(context.space.parent, context.request.percentile).ms
    return tuple(share * parent_ms for share in FRONT)
