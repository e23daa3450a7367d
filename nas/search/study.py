"""One Optuna study: seeds first, then level-switch evolution, the latency as a constraint.

Every trial keeps its raw loss, raw milliseconds and architecture; whether it is feasible is decided from those
whenever it is asked, so a corrected latency model never meets a stale verdict.
"""

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.quality.quality import Quality
from nas.search.outcome import Candidate, SearchOutcome
from nas.search.problem import Problem
from nas.search.rankings import add_back, drop_in_order
from nas.search.sampler import LEVELS, LevelSwitchSampler
from nas.search.score_library import score_library
from nas.search.solve import solve
from search_spaces.architecture import Architecture
from search_spaces.errors import NoFeasibleCandidate
from search_spaces.space import empty
from search_spaces.unit import Unit

SOLVED_BUDGETS = (1.0, 0.97, 0.94)  # of the asked one: the additive model may overrate what a drop saves
SOLUTIONS = 4  # at each of them


class Search:
    """The state of one search: its study, and what was evaluated on how many items."""

    def __init__(self, problem: Problem) -> None:
        """Open or continue the study."""
        self.problem = problem
        self.began = time.monotonic()
        self.evaluations = 0
        self.full: dict[Architecture, Quality] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            study_name=problem.study, storage=problem.storage, load_if_exists=True, direction="minimize"
        )
        self._close_orphans()

    def run(self) -> SearchOutcome:
        """The whole search.

        Raises:
            NoFeasibleCandidate: nothing that was tried meets the budget.
        """
        problem, space = self.problem, self.problem.space
        library = score_library(problem, lambda done, of: problem.on_trial(0, f"scoring units {done}/{of}"))
        baselines = one_shot(problem)
        seeds = [("parent", space.parent), *baselines.items(), *self._solved(library)]
        if not problem.feasible(space.parent):
            self.study.sampler = LevelSwitchSampler(problem, library)
            self._seed(seeds)
            self._evolve()
        else:
            self._seed(seeds[:1])
            self._trial()
        ranked = self._judge(self._feasible())
        if not ranked:
            raise NoFeasibleCandidate(self._closest())
        named = {name: self._candidate(a, name, -1) for name, a in baselines.items()}
        parent = self._candidate(space.parent, "parent", 0)
        candidates = tuple(self._judged(self._as_candidate(trial)) for trial in self._finished())
        seconds = time.monotonic() - self.began
        return SearchOutcome(parent, ranked, candidates, named, len(candidates), self.evaluations, seconds)

    def _solved(self, library: dict[Unit, float]) -> list[tuple[str, Architecture]]:
        problem = self.problem
        saves, parent_ms = problem.saves_ms(), problem.ms(problem.space.parent)
        return [
            ("mip", architecture)
            for share in SOLVED_BUDGETS
            for architecture in solve(problem.space, library, saves, parent_ms - share * problem.budget_ms, SOLUTIONS)
        ]

    def _seed(self, seeds: Iterable[tuple[str, Architecture]]) -> None:
        """Enqueue what no earlier run of this study has tried or queued."""
        known = {trial.user_attrs.get("digest") for trial in self.study.get_trials(deepcopy=False)}
        for origin, architecture in seeds:
            if architecture.digest not in known and self.problem.space.contains(architecture):
                known.add(architecture.digest)
                self._enqueue(architecture, origin)

    def _enqueue(self, architecture: Architecture, origin: str) -> None:
        attributes = {"origin": origin, "digest": architecture.digest, "architecture": architecture.to_json()}
        self.study.enqueue_trial(dict(self.problem.space.encode(architecture)), user_attrs=attributes)

    def _evolve(self) -> None:
        """Trials until there are enough or time is up; a time limit never costs the seeds a first feasible one."""
        while len(self._finished()) < self.problem.trials:
            if self._time_is_up() and (self._feasible() or not self._queued()):
                return
            self._trial()

    def _time_is_up(self) -> bool:
        limit = self.problem.time_limit_s
        return limit is not None and time.monotonic() - self.began > limit

    def _queued(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _trial(self) -> None:
        trial = self.study.ask()
        space = self.problem.space
        levels = {str(unit): trial.suggest_categorical(str(unit), LEVELS) for unit in space.units}
        architecture = space.decode({unit for unit in space.units if levels[str(unit)] == "drop"})
        trial.set_user_attr("architecture", architecture.to_json())
        trial.set_user_attr("digest", architecture.digest)
        if empty(architecture):
            self.study.tell(trial, state=TrialState.FAIL)
            return
        ms = self.problem.ms(architecture)
        quality = self._evaluate(architecture)
        trial.set_user_attr("quality", quality.to_json())
        trial.set_user_attr("loss", quality.loss)
        trial.set_user_attr("predicted_ms", ms)
        trial.set_constraint("latency_ms", ms - self.problem.budget_ms)
        self.study.tell(trial, quality.loss)
        self.problem.on_trial(1, self._best_note())

    def _evaluate(self, architecture: Architecture) -> Quality:
        """A duplicate is answered from the trial that had it first."""
        for trial in self._finished():
            if trial.user_attrs["digest"] == architecture.digest:
                return Quality.from_json(trial.user_attrs["quality"])
        self.evaluations += 1
        return self.problem.evaluate(architecture, self.problem.fidelity)

    def _feasible(self) -> list[Candidate]:
        candidates = {c.architecture: c for c in map(self._as_candidate, self._finished())}
        fitting = [c for c in candidates.values() if c.predicted_ms <= self.problem.budget_ms]
        return sorted(fitting, key=lambda c: (c.quality.loss, c.architecture.digest))

    def _judge(self, feasible: list[Candidate]) -> tuple[Candidate, ...]:
        """The best of the trials again, on all validation items."""
        judged = [self._candidate(c.architecture, c.origin, c.trial) for c in feasible[: self.problem.finalists]]
        return tuple(sorted(judged, key=lambda c: (c.quality.loss, c.predicted_ms, c.architecture.digest)))

    def _candidate(self, architecture: Architecture, origin: str, trial: int) -> Candidate:
        if architecture not in self.full:
            self.evaluations += 1
            self.full[architecture] = self.problem.evaluate(architecture, None)
        return Candidate(architecture, self.full[architecture], self.problem.ms(architecture), origin, trial, True)

    def _judged(self, candidate: Candidate) -> Candidate:
        """The candidate with its quality on all items where that is known."""
        known = self.full.get(candidate.architecture)
        return candidate if known is None else replace(candidate, quality=known, full=True)

    def _as_candidate(self, trial: FrozenTrial) -> Candidate:
        attributes: dict[str, Any] = trial.user_attrs
        architecture = Architecture.from_json(attributes["architecture"])
        quality, ms = Quality.from_json(attributes["quality"]), self.problem.ms(architecture)
        return Candidate(architecture, quality, ms, attributes.get("origin", "evolution"), trial.number)

    def _finished(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def _close_orphans(self) -> None:
        """Trials that were running when an earlier run died will never end: fail them, and queue them again."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
            # An unfinished proposal of the sampler has no architecture yet: the next proposal replaces it.
            if "architecture" in trial.user_attrs:
                architecture = Architecture.from_json(trial.user_attrs["architecture"])
                self._enqueue(architecture, trial.user_attrs.get("origin", "evolution"))

    def _best_note(self) -> str:
        best = next(iter(self._feasible()), None)
        return (
            "nothing feasible yet"
            if best is None
            else f"best loss {best.quality.loss:.4f} at {best.predicted_ms:.2f} ms"
        )

    def _closest(self) -> str:
        fastest = min(map(self._as_candidate, self._finished()), key=lambda c: c.predicted_ms)
        return (
            f"no candidate meets {self.problem.budget_ms:.2f} ms (p{self.problem.percentile}); the closest takes "
            f"{fastest.predicted_ms:.2f} ms ({fastest.architecture.words}); raise the budget"
        )


def one_shot(problem: Problem) -> dict[str, Architecture]:
    """Every ranking dropped in order to the budget, as published and after adding back what still fits."""
    found: dict[str, Architecture] = {}
    for name, ranking in problem.rankings.items():
        architecture = drop_in_order(problem.space, ranking, problem.feasible)
        if architecture is not None and problem.space.contains(architecture):
            found[name] = architecture
            found[f"{name}+add-back"] = add_back(problem.space, architecture, ranking, problem.feasible)
    return found


def run_search(problem: Problem) -> SearchOutcome:
    """Search; continue when the problem's study exists already.

    Raises:
        NoFeasibleCandidate: nothing that was tried meets the budget.
    """
    return Search(problem).run()
