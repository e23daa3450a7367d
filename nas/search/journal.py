"""The study of one search: every architecture that was judged, with its raw loss and raw milliseconds.

Whether a trial is feasible is decided from those whenever it is asked, so a corrected latency model never meets a
stale verdict; the constraint that Optuna keeps is a record of what was thought at the time.
"""

from collections.abc import Iterable
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.quality.quality import Quality
from nas.search.levels import decode, distributions, encode
from nas.search.outcome import Candidate
from nas.search.problem import Problem
from search_spaces.architecture import Architecture

KNOBS = "knobs"


class Journal:
    """An Optuna study whose trials are architectures: one categorical parameter per part and per place of a stage."""

    def __init__(self, problem: Problem) -> None:
        """Open or continue the study; trials that an earlier run left unfinished are closed, and queued again."""
        self.problem = problem
        self.distributions = distributions(problem.space)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            study_name=problem.study, storage=problem.storage, load_if_exists=True, direction="minimize"
        )
        self._close_orphans()

    def sample_with(self, sampler: BaseSampler) -> None:
        """Who proposes what was not queued."""
        self.study.sampler = sampler

    def queue(self, seeds: Iterable[tuple[str, Architecture]], knobs: dict[str, float] | None = None) -> None:
        """Queue what no run of this study has tried or queued; `knobs` are what they were decoded from."""
        known = {trial.user_attrs.get("digest") for trial in self.study.get_trials(deepcopy=False)}
        for origin, architecture in seeds:
            if architecture.digest not in known and self.problem.space.contains(architecture):
                known.add(architecture.digest)
                self._enqueue(architecture, origin, knobs)

    def queued(self) -> bool:
        """Whether the next trial is one that was queued."""
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def ask(self) -> tuple[Trial, Architecture]:
        """The next trial: queued, or proposed by the sampler."""
        trial, space = self.study.ask(), self.problem.space
        choices = {name: each.choices for name, each in self.distributions.items()}
        levels = {name: str(trial.suggest_categorical(name, these)) for name, these in choices.items()}
        architecture = decode(space, levels)
        trial.set_user_attr("architecture", architecture.to_json())
        trial.set_user_attr("digest", architecture.digest)
        return trial, architecture

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
        attributes = _identity(architecture, origin) | _outcome(quality, self.problem.ms(architecture))
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

    def _enqueue(self, architecture: Architecture, origin: str, knobs: dict[str, float] | None) -> None:
        attributes = _identity(architecture, origin) | ({} if knobs is None else {KNOBS: knobs})
        self.study.enqueue_trial(dict(encode(self.problem.space, architecture)), user_attrs=attributes)

    def _close_orphans(self) -> None:
        """Trials that were running when an earlier run died will never end: fail them, and queue them again."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
            # An unfinished proposal of the sampler has no architecture yet: the next proposal replaces it.
            if "architecture" in trial.user_attrs:
                architecture = Architecture.from_json(trial.user_attrs["architecture"])
                attributes = trial.user_attrs
                self._enqueue(architecture, attributes.get("origin", "evolution"), attributes.get(KNOBS))


def _identity(architecture: Architecture, origin: str) -> dict[str, Any]:
    return {"origin": origin, "digest": architecture.digest, "architecture": architecture.to_json()}


def _outcome(quality: Quality, ms: float) -> dict[str, Any]:
    return {"quality": quality.to_json(), "loss": quality.loss, "predicted_ms": ms}
