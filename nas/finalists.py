"""The finals of a search: contenders and winner exported and measured, on the target where it can be.

Where the target cannot be measured the search's winner stands, its file is compared with the parent's on this machine,
and the certificate says that the budget was predicted.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from latency_models.measure import Measured
from latency_models.measurement import Measurement, least_samples
from latency_models.profile import Profile
from latency_models.targets import Target
from latency_models.workload import Phase, Workload
from nas.certificate import Certificate, Verdict, judge
from nas.choice import Steps, calibrated, choose_winner
from nas.device import Device, Effort, ThisMachine
from nas.latency import ParentExport, fitting
from nas.progress import Progress
from nas.request import SearchRequest
from nas.result import versions
from nas.search import Problem, SearchOutcome, run_search
from nas.subject import Subject
from pruning.surgery import prune
from search_spaces.architecture import Architecture
from search_spaces.errors import ProfileMismatch

CONTENDER_SECONDS = 8.0
CONFIRM_SECONDS = 8.0
_SMALL = 256  # tokens of a prompt or of a past, where only this machine compares
_WORDS = 16


@dataclass(frozen=True)
class Finals:
    """What certifying needs to know; `device` is None where the target cannot be measured."""

    request: SearchRequest
    subject: Subject
    target: Target
    workload: Workload
    export: ParentExport
    device: Device | None
    progress: Progress

    def play(self, problem: Problem) -> tuple[SearchOutcome, Problem, Certificate]:
        """The outcome, the problem with its latency model corrected by what was measured, and the certificate.

        Raises:
            NoFeasibleCandidate: nothing meets the budget, by prediction or as measured.
            ProfileMismatch: the device is not in the state in which it was profiled.
        """
        (self.request.out / "winner" / "certificate.json").unlink(missing_ok=True)  # it is of what is exported over
        if self.device is not None:
            relative = self.request.budget.fraction is not None
            steps = Steps(self.search, self.measure, self.certify, self.progress.message, relative)
            return choose_winner(steps, problem)
        outcome = self.search(problem)
        return outcome, problem, self.certify(problem, outcome.winner.architecture)

    def search(self, problem: Problem) -> SearchOutcome:
        """Run the search with its progress shown."""
        with self.progress.stage("searching", total=problem.trials) as stage:
            return run_search(replace(problem, on_trial=stage.advance))

    def measure(self, architectures: list[Architecture]) -> Profile:
        """Contenders beside the parent."""
        assert self.device is not None
        with self.progress.stage("measuring contenders"):
            return self.device.measure(architectures, self._effort(CONTENDER_SECONDS))

    def certify(self, problem: Problem, winner: Architecture) -> Certificate:
        """Export the winner, measure it beside the parent in fresh processes, judge it.

        Where only the bound, not the percentile, is above the budget, as many samples again decide: all of them count.

        Raises:
            ProfileMismatch: the device has another power mode, runtime or precision than when it was profiled.
        """
        device = self.device or ThisMachine(self.subject, self.export, self._small(), self.progress)
        pruned = prune(self.subject.model, winner, anatomy=self.subject.anatomy)
        file = device.export(pruned, self.request.out / "winner")
        effort = self._effort(CONFIRM_SECONDS)
        measured = device.compare(file, effort)
        certificate = self._judged(problem, winner, file, measured)
        if certificate.verdict is Verdict.REFUSED and certificate.percentile_ms <= certificate.budget_ms:
            measured = measured.joined(device.compare(file, effort))
            certificate = self._judged(problem, winner, file, measured)
        return certificate

    def _judged(self, problem: Problem, winner: Architecture, file: Path, measured: Measured) -> Certificate:
        on_target, parent = self.device is not None, measured.of["parent"]
        if on_target and measured.key != calibrated(problem).profile.key:
            raise ProfileMismatch(
                f"{self.target.name} was profiled as {calibrated(problem).profile.key} and is {measured.key} now; "
                "set it back, or profile it again"
            )
        return judge(
            target=self.target.name, on_target=on_target, file=file, workload=self.workload,
            percentile=self.request.percentile, budget_ms=self._budget_ms(problem, parent),
            predicted_ms=problem.ms(winner), architecture=winner, environment=measured.key, versions=versions(),
            measured=(measured.of["winner"], parent), drift=self._drift(problem, parent),
        )  # fmt: skip

    def _effort(self, seconds: float) -> Effort:
        return Effort(seconds, least_samples(self.request.percentile))

    def _small(self) -> Workload:
        """A workload of the same phase that suits this machine."""
        images = self.subject.shape.droppable  # a prompt has room for them, and for a few words
        length = _SMALL if images is None else images + _WORDS
        if self.workload.phase is Phase.DECODE:
            small = Workload(Phase.DECODE, 1, 1, length)
        elif self.workload.phase is Phase.FORWARD and images is None:
            small = self.subject.shape.default_workload(small=True)
        else:
            small = Workload(self.workload.phase, 1, length)
        return fitting(self.subject.model, small)

    def _budget_ms(self, problem: Problem, parent: Measurement) -> float:
        """A fraction is of the parent as measured beside the winner, whatever the machine was doing before."""
        if self.device is None:
            return problem.budget_ms
        return self.request.budget.resolve(parent.percentile(self.request.percentile))

    def _drift(self, problem: Problem, parent: Measurement) -> float:
        """How much slower the parent ran when it was profiled; 1 for a fraction of the parent beside the winner.

        A machine that is slower now than then counts as it is: what was measured is what a person would see.
        """
        if self.device is None or self.request.budget.fraction is not None:
            return 1.0
        return max(1.0, problem.latency.predict(problem.space.parent, 50).ms / parent.p50)
