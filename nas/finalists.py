"""The finals of a search: contenders and winner exported and measured, on the target where it can be.

Where the target cannot be measured the search's winner stands, its file is compared with the parent's on this machine,
and the certificate says that the budget was predicted.
"""

from dataclasses import dataclass, replace

from latency_models.measure import measure_files
from latency_models.measurement import Measurement, least_samples
from latency_models.profile import Record
from latency_models.targets import Target
from latency_models.workload import Workload
from nas.certificate import Certificate, judge
from nas.choice import Steps, choose_winner
from nas.device import Device, ThisMachine
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

CONTENDER_SECONDS = 8.0
CONFIRM_SECONDS = 8.0


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
        """
        if self.device is not None:
            steps = Steps(self.search, self.measure, self.certify, self.progress.message)
            return choose_winner(steps, problem)
        outcome = self.search(problem)
        return outcome, problem, self.certify(problem, outcome.winner.architecture)

    def search(self, problem: Problem) -> SearchOutcome:
        """Run the search with its progress shown."""
        with self.progress.stage("searching", total=problem.trials) as stage:
            return run_search(replace(problem, on_trial=stage.advance))

    def measure(self, architectures: list[Architecture]) -> tuple[Record, ...]:
        """Contenders beside the parent, from files derived from its export."""
        assert self.device is not None
        with self.progress.stage("measuring contenders"):
            return measure_architectures(
                self.subject.model, self.export.graph, architectures, self.workload, seconds=CONTENDER_SECONDS,
                least_rounds=least_samples(self.request.percentile), run=self.device.run,
            )  # fmt: skip

    def certify(self, problem: Problem, winner: Architecture) -> Certificate:
        """Export the winner, check it against the model, measure it beside the parent in fresh processes, judge it."""
        path, request = self.request.out / "winner" / "model.onnx", self.request
        with self.progress.stage("exporting the winner"):
            pruned = prune(self.subject.model, winner, anatomy=self.subject.anatomy)
            _, reason = export_for_onnx_runtime(pruned, path, check_parity, self.export.phase)
        if reason:
            self.progress.message(reason)
        on_target = self.device is not None
        here = self.workload if on_target else self.subject.shape.default_workload(small=True)
        with self.progress.stage("measuring winner and parent"):
            measured = measure_files(
                {"parent": self.export.path, "winner": path}, workload_inputs(self.subject.model, here), here,
                sentinel="parent", seconds=CONFIRM_SECONDS, least_rounds=least_samples(request.percentile),
                run=(self.device or ThisMachine()).run,
            )  # fmt: skip
        parent = measured.of["parent"]
        return judge(
            target=self.target.name, on_target=on_target, file=path, workload=self.workload,
            percentile=request.percentile, budget_ms=self._budget_ms(problem, parent), predicted_ms=problem.ms(winner),
            architecture=winner, environment=measured.key, versions=versions(),
            measured=(measured.of["winner"], parent), drift=self._drift(problem, parent),
        )  # fmt: skip

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
