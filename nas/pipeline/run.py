"""A search from the request to the result folder: the road every part of the tool is a stretch of."""

from dataclasses import replace
from functools import partial
from uuid import uuid4

from nas.certification.run import CertificationRun
from nas.certification.search_context import SearchContext
from nas.data.documents import SPLITS
from nas.figures.search import save_redundancy
from nas.parent.analysis import analyse
from nas.pipeline.delivery import Delivery
from nas.pipeline.draft import describe_draft, settle_budget, write_draft
from nas.pipeline.evaluator import load_evaluations
from nas.pipeline.finalists import choose_finalists, describe_finalists
from nas.pipeline.healed_winner import HealedWinner, judge_healed
from nas.pipeline.healing import FinalistHealing, check_healing
from nas.pipeline.held_out import judge_held_out
from nas.pipeline.limits import list_limits
from nas.pipeline.prepare import prepare
from nas.pipeline.problem import build_problem
from nas.pipeline.write_results import deliver, record
from nas.profiling.ssh import Transport
from nas.progress import Phases, Progress, Timed
from nas.request.choices import DRAFT
from nas.request.search_request import FILE as REQUEST
from nas.request.search_request import SearchRequest
from nas.results.finalists import Finalist
from nas.results.result import Result
from nas.search import Problem, SearchOutcome
from nas.search.outcome import evaluate_whole_front
from nas.search.unit_savings import describe_savings, predict_savings, predict_savings_with_loss
from nas.storage.cache_folder import get_cache_folder
from nas.storage.disk_errors import check_folder, check_free_space
from nas.storage.open_storage import check_storage
from nas.storage.redact import build_sqlite_url
from nas.storage.result_folder import lock_exclusively
from search_spaces.errors import MachineTooBusy, UsageError


def run(request: SearchRequest, progress: Progress, transport: Transport | None = None) -> Result:
    """The whole road; the result folder is complete when it returns.

    Args:
        transport: to the target, for one that is not this machine; None asks the cluster for a node that has it.

    Raises:
        NasError: what the user gave is wrong, nothing meets the budget, or a file cannot be made.
        MachineTooBusy: the result folder is complete, its winner is predicted.
    """
    request, timed = _restore_request(request), Timed(progress)
    _check_locations(request)
    check_healing(request)
    context = prepare(request, timed, transport)
    weights = sum(each.numel() * each.element_size() for each in context.parent.model.parameters())
    scarce = check_free_space(request.out, weights)
    if scarce:
        progress.show_message(scarce)
    request.save()
    with lock_exclusively(request.out):
        try:
            return _search(context, timed)
        finally:
            context.cached_evaluator.executor.close()


def _check_locations(request: SearchRequest) -> None:
    """Find out before the work begins whether its results can be kept.

    Raises:
        UsageError: the result folder or the cache cannot be written.
        StorageUnavailable: the study's database is damaged, or cannot be reached.
    """
    check_folder(request.out, "--out")
    get_cache_folder()
    if request.storage or request.out.exists():  # else the study's file is made where the folder is made
        check_storage(request.storage or build_sqlite_url(request.out / "study.db"))


def _search(context: SearchContext, progress: Timed) -> Result:
    request, parent = context.request, context.parent
    list_limits(context)  # what cannot be bounded is refused before the analysis
    redundancy, _ = analyse(parent, progress)
    save_redundancy(redundancy, request.out, parent.id)
    cached_evaluator = context.cached_evaluator
    evaluator = cached_evaluator.evaluator
    if request.goal == DRAFT:
        context = settle_budget(context, redundancy, progress)
    problem = build_problem(context, redundancy)
    progress.show_message(describe_savings(predict_savings(problem), problem.predict_ms(problem.space.parent)))
    healing = None if request.heal_s is None else FinalistHealing(context, request.heal_s, progress)
    if healing is not None:
        healing.check()
    certification = CertificationRun(context, progress)
    outcome, problem, certificate = certification.run(problem, None if healing is None else healing.train)
    if request.pareto:
        with progress.open_stage("evaluating the Pareto front on all items"):
            outcome = evaluate_whole_front(problem, outcome)
    plan = context.builder.plan
    known = load_evaluations(
        parent, evaluator, "test", request.storage, "" if plan is None else plan.build_key(final=True)
    )
    with Phases(progress) as phases:
        held_out = judge_held_out(
            outcome, cached_evaluator, known, partial(phases.report, "evaluating on the test split")
        )
    with progress.open_stage("evaluating the finalists"):
        finalists, healed = _judge_finalists(context, problem, outcome, healing)
    outcome = outcome if healed is None else healed.lead(outcome)
    delivery = Delivery(
        context, problem.latency, outcome, certificate, held_out, cached_evaluator.evaluations,
        predict_savings_with_loss(problem), {name: evaluator.dataset.get_split(name).digest for name in SPLITS},
        finalists, healed,
    )  # fmt: skip
    with progress.open_stage("exporting the winner's files"):
        result = deliver(delivery)
    if request.goal == DRAFT:
        write_draft(delivery, describe_draft(delivery), progress)
    result = record(result, delivery, progress)
    if "problem" in result.mlflow:
        progress.show_message(result.mlflow["problem"])
    if certificate.busy:
        kept = f"; the winner is kept as a prediction in {request.out} (nas certify {request.out} measures it again)"
        raise MachineTooBusy(certificate.busy, kept)
    return result


def _judge_finalists(
    context: SearchContext, problem: Problem, outcome: SearchOutcome, healing: FinalistHealing | None
) -> tuple[tuple[Finalist, ...], HealedWinner | None]:
    """The best candidates side by side, and the winner as it was trained."""
    if healing is None or healing.standing is None:
        return describe_finalists(context, choose_finalists(problem, outcome), None), None
    finalists = describe_finalists(context, healing.finalists, healing.standing)
    return finalists, judge_healed(healing, outcome.winner.architecture)


def _restore_request(request: SearchRequest) -> SearchRequest:
    """The request as it is kept in its folder, which may be continued by the same one only."""
    identity = request.id
    if (request.out / REQUEST).exists():
        earlier = SearchRequest.load(request.out)
        if not earlier.is_same_search(request):
            raise UsageError(
                f"{request.out} holds another search; choose another --out, or continue with: {earlier.resume_command}"
            )
        identity = earlier.id
    return replace(request, id=identity or uuid4().hex[:12])
