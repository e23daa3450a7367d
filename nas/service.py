"""A search from the request to the result folder: the road every part of the tool is a stretch of."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from latency_models.model import LatencyModel
from latency_models.targets import Target, find_target
from latency_models.workload import Workload
from nas.delivery import Delivery, deliver, record
from nas.figures import save_redundancy
from nas.finalists import Finals, choose_winner
from nas.latency import ParentExport, default_workload, latency_model
from nas.progress import Progress
from nas.quality import Evaluator, Quality, evaluator_for
from nas.request import SearchRequest
from nas.result import Result
from nas.search import Problem, SearchOutcome
from nas.subject import Subject, load_subject
from pruning.redundancy import Redundancy, measure_redundancy
from pruning.surgery import prune
from search_spaces.architecture import Architecture
from search_spaces.errors import UsageError
from search_spaces.space import Space
from search_spaces.unit import Kind, Unit

FIDELITY = 1 / 3  # share of the validation items that an ordinary trial is judged on


@dataclass(frozen=True)
class Setting:
    """What a search works with once everything asked for has been found and loaded."""

    request: SearchRequest
    subject: Subject
    target: Target
    workload: Workload
    export: ParentExport
    latency: LatencyModel
    budget_ms: float
    space: Space


def prepare(request: SearchRequest, progress: Progress) -> Setting:
    """Load the parent, get the latency model, resolve the budget.

    Raises:
        NasError: any of its kinds, for what the user gave.
    """
    target = find_target(request.target)
    if target.note:
        progress.message(f"target: {target.note}")
    subject = load_subject(request.model, request.data, request.trust_remote_code)
    workload = request.workload or default_workload(subject, target)
    export = ParentExport(subject, progress)
    latency = latency_model(subject, target, workload, export, progress)
    parent_ms = latency.predict(Architecture.parent(subject.anatomy.depth), request.percentile).ms
    space = subject.anatomy.space(request.units)
    budget = request.budget.resolve(parent_ms)
    p = request.percentile
    progress.message(
        f"{subject.id} on {target.name}, {workload}: parent {parent_ms:.2f} ms (p{p}, {latency.label}); "
        f"budget {budget:.2f} ms = {budget / parent_ms:.2f} x the parent"
    )
    return Setting(request, subject, target, workload, export, latency, budget, space)


def plan(request: SearchRequest, progress: Progress) -> dict[str, Any]:
    """What a search would do, without doing it (`--dry-run`); measures nothing on this machine."""
    target = find_target(request.target)
    subject = load_subject(request.model, request.data, request.trust_remote_code)
    workload = request.workload or default_workload(subject, target)
    space = subject.anatomy.space(request.units)
    document: dict[str, Any] = {
        "schema_version": 1,
        "model": subject.id,
        "parameters": subject.model.num_parameters(),
        "layout": str(subject.anatomy.layout),
        "target": target.name,
        "target_note": target.note,
        "workload": str(workload),
        "budget": request.budget.text,
        "percentile": request.percentile,
        "units": len(space.units),
        "architectures": 2 ** len(space.units),
        "trials": request.trials,
        "out": str(request.out),
        "parent_ms": None,
    }
    if not target.is_host:
        latency = latency_model(subject, target, workload, ParentExport(subject, progress), progress)
        parent = latency.predict(space.parent, request.percentile)
        document |= {"parent_ms": round(parent.ms, 3), "latency": latency.label}
    return document


def run(request: SearchRequest, progress: Progress) -> Result:
    """The whole road; the result folder is complete when it returns.

    Raises:
        NasError: what the user gave is wrong, nothing meets the budget, or a file cannot be made.
    """
    setting = prepare(request, progress)
    _refuse_another_s_folder(request)
    request.save()
    subject = setting.subject
    with progress.stage("analysing redundancy"):
        redundancy = measure_redundancy(subject.model, subject.dataset.calibration.batches(4), subject.anatomy)
        save_redundancy(redundancy, request.out, subject.id)
    evaluator = evaluator_for(subject.model, subject.dataset)
    problem = _problem(setting, redundancy, evaluator)
    finals = Finals(request, subject, setting.target, setting.workload, setting.export, progress)
    outcome, problem, certificate = choose_winner(finals, problem)
    with progress.stage("judging on the test split"):
        held_out = _held_out(setting, outcome, evaluator)
    delivery = Delivery(
        request, subject, setting.target, setting.workload, problem.latency, certificate.budget_ms,
        setting.budget_ms, outcome,
        certificate, held_out,
    )  # fmt: skip
    with progress.stage("writing the result folder and MLflow"):
        result = record(deliver(delivery), delivery)
    if "problem" in result.mlflow:
        progress.message(result.mlflow["problem"])
    return result


def _refuse_another_s_folder(request: SearchRequest) -> None:
    """A folder may be continued by the same request only."""
    if (request.out / "request.json").exists():
        earlier = SearchRequest.load(request.out)
        if replace(earlier, out=request.out) != request:
            raise UsageError(
                f"{request.out} holds another search; choose another --out, or go on with it: {earlier.resume_command}"
            )


def _problem(setting: Setting, redundancy: Redundancy, evaluator: Evaluator) -> Problem:
    request, subject = setting.request, setting.subject
    validation = subject.dataset.validation
    fidelity = max(1, round(FIDELITY * len(validation)))

    @cache  # a corrected latency model asks again for what was evaluated before
    def evaluate(architecture: Architecture, items: int | None) -> Quality:
        candidate = prune(subject.model, architecture, anatomy=subject.anatomy, share_weights=True)
        return evaluator.evaluate(candidate, "validation", items)

    content = f"{subject.digest}/{validation.digest}/{evaluator.metric}/{fidelity}"
    return Problem(
        space=setting.space,
        evaluate=evaluate,
        latency=setting.latency,
        budget_ms=setting.budget_ms,
        percentile=request.percentile,
        rankings=_rankings(redundancy, setting.space),
        fidelity=fidelity,
        storage=request.storage or f"sqlite:///{(request.out / 'study.db').resolve()}",
        library=subject.cache / "library" / f"{content.replace('/', '-')}.json",
        content=content,
        study=f"{subject.id} {setting.target.name} {request.budget.text} seed {request.seed}",
        trials=request.trials,
        time_limit_s=request.time_limit_s,
        seed=request.seed,
    )


def _rankings(redundancy: Redundancy, space: Space) -> dict[str, tuple[Unit, ...]]:
    """One-shot cosine rankings of the kinds that the space has."""
    kinds = {unit.kind for unit in space.units}
    found: dict[str, tuple[Unit, ...]] = {}
    if {Kind.ATTENTION, Kind.MLP} <= kinds:
        found["cosine-joint"] = redundancy.ranking(Kind.ATTENTION, Kind.MLP)
    if Kind.ATTENTION in kinds:
        found["cosine-attention"] = redundancy.ranking(Kind.ATTENTION)
    if Kind.MLP in kinds:
        found["cosine-mlp"] = redundancy.ranking(Kind.MLP)
    if Kind.BLOCK in kinds or ({Kind.ATTENTION, Kind.MLP} <= kinds and space.merges_blocks):
        found["cosine-block"] = redundancy.ranking(Kind.BLOCK)
    return found


def _held_out(setting: Setting, outcome: SearchOutcome, evaluator: Evaluator) -> dict[str, Quality]:
    """Test-split quality of the parent, the winner and every baseline, by architecture digest."""
    subject, found = setting.subject, {}
    named = [outcome.parent, outcome.winner, *outcome.baselines.values()]
    for architecture in dict.fromkeys(candidate.architecture for candidate in named):
        candidate = prune(subject.model, architecture, anatomy=subject.anatomy, share_weights=True)
        found[architecture.digest] = evaluator.evaluate(candidate, "test")
    return found
