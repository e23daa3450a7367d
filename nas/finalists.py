"""From a search to one winner: measure the finalists, correct the latency model, choose again, certify.

Only this machine can be measured. For a device that is not at hand the search's winner stands, its exported file is
compared with the parent's here, and the certificate says that the budget was predicted.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from latency_models.fit import CalibratedModel
from latency_models.targets import Target
from latency_models.workload import Workload
from nas.budget import Budget
from nas.certificate import Certificate, Verdict, judge, measure_pair
from nas.export.onnx_export import export_for_onnx_runtime, workload_inputs
from nas.export.parity import check_parity
from nas.latency import ParentExport
from nas.profiling import measure_architectures
from nas.progress import Progress
from nas.request import SearchRequest
from nas.result import versions
from nas.search import Problem, SearchOutcome, run_search
from nas.subject import Subject
from pruning.surgery import prune
from search_spaces.architecture import Architecture
from search_spaces.errors import NoFeasibleCandidate

MEASURED = 3  # finalists measured together in a round
ROUNDS = 6  # of measure, correct, choose again
MORE_TRIALS = 12
FINALIST_SECONDS = 6.0
PAIR_SECONDS = 6.0
_MARGIN = 0.985  # the choice is made a little below the budget; a refusal narrows by as much and its overshoot


@dataclass(frozen=True)
class Finals:
    """What certifying needs to know."""

    request: SearchRequest
    subject: Subject
    target: Target
    workload: Workload
    export: ParentExport
    progress: Progress


def choose_winner(finals: Finals, problem: Problem) -> tuple[SearchOutcome, Problem, Certificate]:
    """Search until a winner is certified (this machine) or found (any other target).

    Returns:
        The outcome, the problem with the corrected latency model, and the winner's certificate.

    Raises:
        NoFeasibleCandidate: nothing that was measured meets the budget; the closest is reported.
    """
    if not finals.target.is_host:
        outcome = _run(finals, problem)
        return outcome, problem, _certify(finals, problem, outcome.winner.architecture)
    problem = replace(problem, budget_ms=problem.budget_ms * _MARGIN)
    outcome, certificate = _run(finals, problem), None
    for _ in range(ROUNDS):
        corrected = _corrected(finals, problem, [c.architecture for c in outcome.ranked[:MEASURED]])
        problem, outcome = _again(finals, corrected, outcome)
        winner = outcome.winner.architecture
        if not problem.latency.predict(winner, problem.percentile).exact:
            continue  # the correction brought up a candidate that was not measured yet
        certificate = _certify(finals, problem, winner)
        if certificate.verdict is Verdict.CERTIFIED:
            return outcome, problem, certificate
        narrowed = problem.budget_ms * _MARGIN / max(1.0, _overshoot(certificate))
        finals.progress.message(f"{certificate.reason}: choosing again with {narrowed:.2f} ms")
        problem, outcome = _again(finals, replace(problem, budget_ms=narrowed), outcome)
    closest = "" if certificate is None else f"; the closest: {certificate.reason}"
    raise NoFeasibleCandidate(
        f"no measured candidate meets {finals.request.budget.text} on {finals.target.name}{closest}; raise the budget"
    )


def _again(finals: Finals, problem: Problem, earlier: SearchOutcome) -> tuple[Problem, SearchOutcome]:
    """Choose among what was evaluated; where nothing of it fits the corrected prediction any more, search on."""
    problem = replace(problem, trials=earlier.trials)
    if not any(problem.feasible(candidate.architecture) for candidate in earlier.candidates):
        problem = replace(problem, trials=earlier.trials + MORE_TRIALS)
    return problem, _run(finals, problem)


def _run(finals: Finals, problem: Problem) -> SearchOutcome:
    with finals.progress.stage("searching", total=problem.trials) as stage:
        return run_search(replace(problem, on_trial=stage.advance))


def _corrected(finals: Finals, problem: Problem, architectures: list[Architecture]) -> Problem:
    """The problem with the finalists' measurements in its latency model."""
    assert isinstance(problem.latency, CalibratedModel)
    known = problem.latency.profile
    unknown = [architecture for architecture in architectures if known.of(architecture) is None]
    if not unknown:
        return problem
    with finals.progress.stage("measuring finalists"):
        records = measure_architectures(
            finals.subject.model, finals.export.graph, unknown, finals.workload, seconds=FINALIST_SECONDS
        )
    parent = Architecture.parent(finals.subject.anatomy.depth)
    added = tuple(record for record in records if record.architecture != parent)
    return replace(problem, latency=CalibratedModel(known.with_records(added)))


def _certify(finals: Finals, problem: Problem, winner: Architecture) -> Certificate:
    """Export the winner, check it against the model, measure it beside the parent on this machine, judge it."""
    subject, request = finals.subject, finals.request
    pruned = prune(subject.model, winner, anatomy=subject.anatomy)
    path = request.out / "winner" / "model.onnx"
    with finals.progress.stage("exporting the winner"):
        _, reason = export_for_onnx_runtime(pruned, path, check_parity)
    if reason:
        finals.progress.message(reason)
    here = finals.workload if finals.target.is_host else subject.shape.default_workload(small=True)
    with finals.progress.stage("measuring winner and parent"):
        pair = measure_pair(finals.export.path, path, workload_inputs(subject.model, here), here, PAIR_SECONDS)
    budget = _budget(request.budget, problem, finals.target.is_host, lambda: pair[1].percentile(request.percentile))
    return judge(
        target=finals.target.name, on_host=finals.target.is_host, file=path, workload=finals.workload,
        percentile=request.percentile, budget_ms=budget, predicted_ms=problem.ms(winner), architecture=winner,
        versions=versions(), measured=pair,
    )  # fmt: skip


def _budget(budget: Budget, problem: Problem, on_host: bool, parent_ms: Callable[[], float]) -> float:
    """A fraction is of the parent as measured beside the winner, whatever the machine was doing before."""
    if not on_host:
        return problem.budget_ms
    return budget.resolve(parent_ms())


def _overshoot(certificate: Certificate) -> float:
    assert certificate.winner is not None
    return certificate.winner.percentile(certificate.percentile) / certificate.budget_ms
