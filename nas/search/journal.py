"""The study of one search: every architecture that was judged, with its raw loss and raw milliseconds.

Whether a trial is feasible is decided from those whenever it is asked, so a corrected latency model never meets a
stale verdict; the constraint that Optuna keeps is a record of what was thought at the time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.quality.quality import Quality
from nas.search.levels import distributions, encode
from nas.search.outcome import Candidate
from nas.search.problem import Problem
from nas.storage import open_storage
from search_spaces.architecture import Architecture

KNOBS, BATCH, SIZE, BUDGET, LOST = "knobs", "batch", "batch_size", "budget", "lost"


@dataclass(frozen=True)
class Proposal:
    """An architecture that is asked for next; `knobs` are what it was decoded from."""

    origin: str
    architecture: Architecture
    knobs: dict[str, float] | None = None


class Journal:
    """An Optuna study whose trials are architectures: one categorical parameter per part and per place of a stage.

    What decides how the search goes on is read from the study, so that a search whose process died goes on as if it had
    not: trials that were running are closed, marked as lost, and asked for again in the same batches. What is queued
    is not in the study: seeds do not depend on chance, and are queued again.
    """

    def __init__(self, problem: Problem) -> None:
        """Open or continue the study."""
        self._queue: list[_Queued] = []
        self._propose: Callable[[optuna.Study, int], Architecture] | None = None
        self.problem = problem
        self.distributions = distributions(problem.space)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            study_name=problem.study, storage=open_storage(problem.storage), load_if_exists=True, direction="minimize"
        )
        self._close_orphans()

    def sample_with(self, propose: Callable[[optuna.Study, int], Architecture]) -> None:
        """Who proposes what was not queued: told the study, and how many trials went before."""
        self._propose = propose

    def queue(self, seeds: Iterable[tuple[str, Architecture]]) -> None:
        """Queue what no run of this study has tried or queued."""
        known = {trial.user_attrs.get("digest") for trial in self.study.get_trials(deepcopy=False)}
        known |= {queued.architecture.digest for queued in self._queue}
        for origin, architecture in seeds:
            if architecture.digest not in known and self.problem.space.contains(architecture):
                known.add(architecture.digest)
                self._queue.append(_Queued(architecture, {"origin": origin}))

    def queued(self) -> bool:
        """Whether the next trial is one that was queued."""
        return bool(self._queue)

    def ask(self, budget_ms: float, most: int, given: Sequence[Proposal] = ()) -> list[tuple[Trial, Architecture]]:
        """The next batch, at most so many: of what was queued; else what is given, and then who proposes decides."""
        size, batch = self._next_batch(min(self.problem.batch, most))
        marks = {BATCH: batch, SIZE: size, BUDGET: self._name_of(budget_ms)}
        asked: list[tuple[Trial, Architecture]] = []
        for place in range(size):
            chosen = self._next(given[place] if place < len(given) else None)
            asked.append((self._begin(chosen.architecture, chosen.attributes | marks), chosen.architecture))
        return asked

    def since_better(self, budget_ms: float) -> int:
        """Proposals that ended at a budget since the best within it, seeds not counted; 0 before there is one."""
        name, best, since, begun = self._name_of(budget_ms), float("inf"), 0, False
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
            if LOST in trial.user_attrs:
                continue
            here, loss = trial.user_attrs.get(BUDGET) == name, self._loss_within(trial, budget_ms)
            if loss < best or (here and not begun):
                best, since = min(loss, best), 0
            elif here and best < float("inf") and trial.user_attrs.get("origin") in (None, KNOBS):
                since += 1
            begun = begun or here
        return since

    def tell(self, trial: Trial, architecture: Architecture, quality: Quality) -> None:
        """The outcome of a trial."""
        ms = self.problem.ms(architecture)
        for key, value in _outcome(quality, ms).items():
            trial.set_user_attr(key, value)
        trial.set_constraint("latency_ms", ms - self.problem.budget_ms)
        self.study.tell(trial, quality.loss)

    def fail(self, trial: Trial) -> None:
        """A trial that is no model."""
        self.study.tell(trial, state=TrialState.FAIL)

    def add(self, architecture: Architecture, quality: Quality, origin: str) -> None:
        """A finished trial that somebody else proposed; once."""
        if architecture.digest in {trial.user_attrs["digest"] for trial in self.finished()}:
            return
        attributes = {"origin": origin} | _identity(architecture) | _outcome(quality, self.problem.ms(architecture))
        self.study.add_trial(optuna.trial.create_trial(
            params=encode(self.problem.space, architecture), distributions=dict(self.distributions),
            value=quality.loss, user_attrs=attributes,
            constraints={"latency_ms": self.problem.ms(architecture) - self.problem.budget_ms},
        ))  # fmt: skip

    def finished(self) -> list[FrozenTrial]:
        """The trials that ended with a loss."""
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def knobs(self, low_ms: float, high_ms: float) -> list[tuple[dict[str, float], float]]:
        """The settings of the knobs that led to latencies in a band, with the losses they led to."""
        tried = [trial.user_attrs for trial in self.finished() if KNOBS in trial.user_attrs]
        return [(found[KNOBS], found["loss"]) for found in tried if low_ms <= found["predicted_ms"] <= high_ms]

    def candidates(self) -> list[Candidate]:
        """Every finished trial with the latency that is predicted now."""
        return [self._as_candidate(trial) for trial in self.finished()]

    def feasible(self, budget_ms: float) -> list[Candidate]:
        """Those within a budget, best first."""
        candidates = {c.architecture: c for c in self.candidates()}
        fitting = [c for c in candidates.values() if self.problem.meets(c.architecture, budget_ms)]
        return sorted(fitting, key=lambda c: (c.quality.loss, c.architecture.digest))

    def _as_candidate(self, trial: FrozenTrial) -> Candidate:
        attributes: dict[str, Any] = trial.user_attrs
        architecture = Architecture.from_json(attributes["architecture"])
        quality, ms = Quality.from_json(attributes["quality"]), self.problem.ms(architecture)
        return Candidate(architecture, quality, ms, attributes.get("origin", "evolution"), trial.number)

    def _next(self, given: Proposal | None) -> "_Queued":
        if self._queue:
            return self._queue.pop(0)
        if given is not None:
            knobs = {} if given.knobs is None else {KNOBS: given.knobs}
            return _Queued(given.architecture, {"origin": given.origin, **knobs})
        assert self._propose is not None
        return _Queued(self._propose(self.study, self._turn()), {})

    def _begin(self, architecture: Architecture, attributes: dict[str, Any]) -> Trial:
        """A trial that runs: it is in the study as a whole, or not at all."""
        begun = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=encode(self.problem.space, architecture),
            distributions=dict(self.distributions), user_attrs=attributes | _identity(architecture),
        )  # fmt: skip
        # `Study.add_trial` does the same and does not say which trial it made.
        made = self.study._storage.create_new_trial(self.study._study_id, template_trial=begun)
        return Trial(self.study, made)

    def _next_batch(self, size: int) -> tuple[int, int]:
        """How many belong to the next batch, and its name: of one that was begun before, what is left of it."""
        if not self._queue:
            return size, self._turn()
        begun = self._queue[0].attributes.get(BATCH)
        if begun is None:
            return min(size, len(self._queue)), self._turn()
        if any(trial.user_attrs.get(BATCH) == begun for trial in self.finished()):  # so all of it had been proposed
            return sum(queued.attributes.get(BATCH) == begun for queued in self._queue), begun
        return self._queue[0].attributes[SIZE], begun

    def _turn(self) -> int:
        """How many trials went before, as if no process had died."""
        return sum(LOST not in trial.user_attrs for trial in self.study.get_trials(deepcopy=False))

    def _name_of(self, budget_ms: float) -> str:
        """Names a budget under the latency model as it is now: once that is corrected, the search begins anew."""
        space = self.problem.space
        edges = (space.parent, space.decode({space.units[0]}), space.decode({space.units[-1]}))
        return " ".join(f"{ms:.9g}" for ms in (budget_ms, *map(self.problem.ms, edges)))

    def _loss_within(self, trial: FrozenTrial, budget_ms: float) -> float:
        """The loss of a trial that keeps to a budget; infinite for others."""
        if "loss" not in trial.user_attrs:
            return float("inf")
        architecture = Architecture.from_json(trial.user_attrs["architecture"])
        return trial.user_attrs["loss"] if self.problem.meets(architecture, budget_ms) else float("inf")

    def _close_orphans(self) -> None:
        """Trials that ran when an earlier process died never end: close them, and queue them before all else."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            Trial(self.study, trial._trial_id).set_user_attr(LOST, True)
            self.study.tell(trial.number, state=TrialState.FAIL)
            architecture = Architecture.from_json(trial.user_attrs["architecture"])
            self._queue.append(_Queued(architecture, dict(trial.user_attrs)))


@dataclass(frozen=True)
class _Queued:
    """An architecture that waits for its turn, with what its trial will say of it."""

    architecture: Architecture
    attributes: dict[str, Any]


def _identity(architecture: Architecture) -> dict[str, Any]:
    return {"digest": architecture.digest, "architecture": architecture.to_json()}


def _outcome(quality: Quality, ms: float) -> dict[str, Any]:
    return {"quality": quality.to_json(), "loss": quality.loss, "predicted_ms": ms}
