"""The certification run: candidates and winner exported and measured, on the target where it can be.

Where the target cannot be measured the search's winner stands, its file is compared with the parent's on this machine,
and the certificate says that the budget was predicted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any

from latency_models.measurement import Measurement, compute_min_samples
from latency_models.profile import Profile
from latency_models.run_plan import Measured
from latency_models.runner.measure import SENTINEL_EVERY
from latency_models.workload import Phase, Workload
from nas.certification.quiet_machine import WAIT_S, QuietWait, find_noise
from nas.certification.search_context import SearchContext
from nas.certification.selection import WIDE, SelectionCallbacks, choose_winner
from nas.certification.selection_state import get_profile
from nas.certification.trained import FINALISTS, TrainedCallbacks, TrainedCandidate, certify_first
from nas.profiling.choose_workload import fit_workload
from nas.profiling.device import Device, ThisMachine
from nas.profiling.effort import Effort
from nas.progress import Phases, Progress
from nas.results.certificate import Certificate, Verdict, compute_confidence, count_looks, judge, mark_too_busy
from nas.results.result import list_versions
from nas.search import Candidate, Problem, SearchOutcome, run_search
from nas.search.outcome import evaluate_in_full
from pruning.inference.device import CPU, find_device, place
from search_spaces.architecture import Architecture
from search_spaces.errors import ProfileMismatch

CONTENDER_SECONDS = 8.0
CONFIRM_SECONDS = 8.0
HERE = (3.0, 20)  # seconds and rounds of a comparison on this machine that decides nothing
LOOKS = 4  # at a winner's samples, each after as much measuring as all before it together
MIN_LIMIT_S = 60.0  # one measurement may take so long,
SLOWED = 3.0  # and so many times what it takes when the machine is as it was profiled
_CERTAIN = 90  # the percentile that a fraction is measured long enough for
_SMALL = 256  # tokens of a prompt or of a past, where only this machine compares
_WORDS = 16


Train = Callable[[Problem, SearchOutcome], Sequence[TrainedCandidate]]


@dataclass(frozen=True)
class CertificationRun:
    """A search, and the certificate of its winner: by measurement where the context has a device, else predicted.

    Attributes:
        trained: models in place of those that the context's builder builds, by architecture.

    Example:
        >>> context = prepare(request, progress)
        >>> outcome, problem, certificate = CertificationRun(context, progress).run(build_problem(context))
    """

    context: SearchContext
    progress: Progress
    trained: Mapping[Architecture, Callable[[], Any]] = field(default_factory=dict)

    def run(self, problem: Problem, train: Train | None = None) -> tuple[SearchOutcome, Problem, Certificate]:
        """The outcome, the problem with its latency model corrected by what was measured, and the certificate.

        Args:
            train: trains candidates of the outcome; gives them best first, or none where there is nothing to train.
                The first that is certified becomes the winner.

        Raises:
            NoFeasibleCandidate: nothing meets the budget, by prediction or as measured.
            ProfileMismatch: the device is not in the state in which it was profiled.
            MachineTooBusy: nothing meets the budget by what was measured on a busy machine.
        """
        (self.context.request.out / "winner" / "certificate.json").unlink(
            missing_ok=True
        )  # it is of what is exported over
        if self.context.device is not None:
            callbacks = SelectionCallbacks(
                self.context.request.budget, self.search, self.measure, self.certify, self.predict,
                self.context.device.profile, self.wait, self.progress.show_message, self.judge,
                1 if train is None else FINALISTS,
            )  # fmt: skip
            outcome, problem, certificate = choose_winner(callbacks, problem)
        else:
            outcome, certificate = self.search(problem), None
        trained = [] if train is None else train(problem, outcome)
        if trained:
            outcome, certificate = self._certify_trained(problem, outcome, trained, certificate)
        return outcome, problem, certificate or self.compare_here(problem, outcome.winner.architecture)

    def _certify_trained(
        self, problem: Problem, outcome: SearchOutcome, trained: Sequence[TrainedCandidate], before: Certificate | None
    ) -> tuple[SearchOutcome, Certificate]:
        """The outcome with the trained winner, and its certificate.

        Args:
            before: the certificate of the winner before it was trained, where it was measured.
        """
        own = replace(self, trained={each.candidate.architecture: each.build for each in trained})
        if before is None:
            winner = trained[0].candidate
            return outcome.lead_with(winner), own.compare_here(problem, winner.architecture)
        callbacks = TrainedCallbacks(
            partial(own.certify, problem),
            partial(own.predict, problem),
            own.wait,
            self.progress.show_message,
            own._tail,
        )
        winner, certificate = certify_first(callbacks, trained, count_looks(before))
        return outcome.lead_with(winner), certificate

    def search(self, problem: Problem) -> SearchOutcome:
        """Run the search with its phases shown."""
        trials, tried = problem.trials * len({*problem.front, problem.budget_ms}), 0
        with Phases(self.progress) as phases:

            def on_phase(name: str, done: float, total: float) -> None:
                phases.report(f"searching: {name}", done, total)

            def on_trial(more: int, note: str) -> None:
                nonlocal tried
                tried += more
                phases.report("searching: evaluating candidates", tried, trials, note)

            return run_search(replace(problem, on_trial=on_trial, on_phase=on_phase))

    def judge(self, problem: Problem, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Candidates evaluated on all items, which takes a while where each is compensated anew."""
        with Phases(self.progress) as phases:

            def on_phase(name: str, done: float, total: float) -> None:
                phases.report(f"choosing: {name}", done, total)

            return evaluate_in_full(replace(problem, on_phase=on_phase), candidates)

    def measure(self, problem: Problem, architectures: list[Architecture]) -> Profile:
        """Candidates beside the parent."""
        assert self.context.device is not None
        return self.context.device.measure(
            architectures, self._choose_effort(problem, CONTENDER_SECONDS, len(architectures))
        )

    def certify(self, problem: Problem, winner: Architecture, looks: int = 0) -> Certificate:
        """Export the winner, measure it beside the parent in fresh processes, judge it.

        As long as its interval reaches across the budget and is wide, as many samples again decide: all of them count.

        Args:
            looks: how often this search has judged winners before.

        Raises:
            ProfileMismatch: the device has another power mode, runtime or precision than when it was profiled.
        """
        assert self.context.device is not None
        file, seconds = self._export(self.context.device, winner), CONFIRM_SECONDS
        measured = self.context.device.compare(file, self._choose_effort(problem, seconds, 1))
        for look in count(1):
            certificate = self._judge(problem, winner, file, measured, looks + look, look)
            settled = certificate.verdict is not Verdict.UNDECIDED or certificate.spread <= WIDE / 2
            if settled or look == LOOKS or find_noise(measured.of["parent"], self._tail):
                break
            measured = measured.join(self.context.device.compare(file, self._choose_effort(problem, seconds, 1)))
            seconds *= 2
        return certificate

    def predict(self, problem: Problem, winner: Architecture, reason: str) -> Certificate:
        """The winner's certificate where the machine was too busy to prove it: exported, and predicted."""
        assert self.context.device is not None
        file, profile = self._export(self.context.device, winner), get_profile(problem)
        budget_ms = self.context.request.budget.resolve(problem.predict_ms(problem.space.parent))
        draft = judge(
            target=self.context.target.name, on_target=False, file=file, workload=self.context.workload,
            percentile=self.context.request.percentile, budget_ms=budget_ms, predicted_ms=problem.predict_ms(winner),
            architecture=winner, environment=profile.key, versions=list_versions(), measured=None,
            fraction=self.context.request.budget.fraction,
        )  # fmt: skip
        return mark_too_busy(draft, reason)

    def compare_here(self, problem: Problem, winner: Architecture) -> Certificate:
        """The certificate of a target that is not at hand: a prediction, with both files measured on this machine."""
        device = ThisMachine(self.context.parent, self.context.export, self._choose_small_workload(), self.progress)
        file = self._export(device, winner)
        measured = device.compare(file, Effort(*HERE))
        return judge(
            target=self.context.target.name, on_target=False, file=file, workload=self.context.workload,
            percentile=self.context.request.percentile, budget_ms=problem.budget_ms,
            predicted_ms=problem.predict_ms(winner),
            architecture=winner, environment=measured.key, versions=list_versions(),
            measured=(measured.of["winner"], measured.of["parent"]),
        )  # fmt: skip

    @cached_property
    def wait(self) -> QuietWait:
        """For a quiet machine, as long as a search with a time limit may take at most."""
        return QuietWait(self.progress, min(WAIT_S, self.context.request.time_limit_s or WAIT_S))

    def _export(self, device: Device, winner: Architecture) -> Path:
        build = self.trained.get(winner, partial(self.context.builder.build, winner))
        return device.export(place(build(), find_device(CPU)), self.context.request.out / "winner")

    def _judge(
        self, problem: Problem, winner: Architecture, file: Path, measured: Measured, look: int, looks: int
    ) -> Certificate:
        """The certificate by these samples, at look number `look` of the search."""
        profile, parent = get_profile(problem), measured.of["parent"]
        if measured.key != profile.key:
            raise ProfileMismatch(
                f"{self.context.target.name} was profiled as {profile.key} and is {measured.key} now; "
                "set it back, or profile it again"
            )
        profiled = profile.find_measurement(problem.space.parent)
        assert profiled is not None
        budget, p = self.context.request.budget, self.context.request.percentile
        return judge(
            target=self.context.target.name, on_target=True, file=file, workload=self.context.workload, percentile=p,
            budget_ms=budget.resolve(parent.compute_percentile(p)), predicted_ms=problem.predict_ms(winner),
            architecture=winner,
            environment=measured.key, versions=list_versions(), measured=(measured.of["winner"], parent),
            drift=self._measure_drift(profiled, parent), fraction=budget.fraction, confidence=compute_confidence(look),
            looks=looks,
            profiled_parent_ms=profiled.p50,
        )  # fmt: skip

    def _measure_drift(self, profiled: Measurement, parent: Measurement) -> float:
        """How much slower the parent ran when it was profiled; 1 for a fraction of the parent beside the winner.

        A machine that is slower now than then counts as it is: what was measured is what a person would see.
        """
        return 1.0 if self._tail is None else max(1.0, profiled.p50 / parent.p50)

    @property
    def _tail(self) -> int | None:
        """The percentile that is judged; None where ratios are."""
        return self.context.request.percentile if self.context.request.budget.fraction is None else None

    def _choose_effort(self, problem: Problem, seconds: float, others: int) -> Effort:
        """How long some files are measured beside the parent."""
        rounds = compute_min_samples(self._tail or min(_CERTAIN, self.context.request.percentile))
        runs = 2 * (2 + others + others // SENTINEL_EVERY)  # each after one that is not timed
        usual_s = rounds * runs * problem.latency.predict(problem.space.parent, 50).ms / 1e3
        return Effort(seconds, rounds, max(MIN_LIMIT_S, SLOWED * max(seconds, usual_s)))

    def _choose_small_workload(self) -> Workload:
        """A workload of the same phase that suits this machine."""
        images = self.context.parent.shape.droppable  # a prompt has room for them, and for a few words
        length = _SMALL if images is None else images + _WORDS
        if self.context.workload.phase is Phase.DECODE:
            small = Workload(Phase.DECODE, 1, 1, length)
        elif self.context.workload.phase is Phase.FORWARD and images is None:
            small = self.context.parent.shape.choose_default_workload(small=True)
        else:
            small = Workload(self.context.workload.phase, 1, length)
        return fit_workload(self.context.parent.model, small)
