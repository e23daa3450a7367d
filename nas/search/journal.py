"""The study of one search: every architecture that was judged, with its raw loss and raw milliseconds.

Whether a trial is feasible is decided from those whenever it is asked, so a corrected latency model never meets a
stale verdict; the constraints and the state that Optuna keeps are a record of what was thought at the time.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from nas.quality.quality import Quality
from nas.search.levels import encode, list_distributions
from nas.search.outcome import Candidate
from nas.search.problem import Problem
from nas.storage.open_storage import open_storage
from search_spaces.architecture import Architecture

KNOBS, BATCH, SIZE, BUDGET, LOST, QUALITY = "knobs", "batch", "batch_size", "budget", "lost", "quality"
POLISH = "polish"
_DASHBOARD = "constraints"  # where Optuna's dashboard reads them, as a list; Optuna itself keeps them by name too


@dataclass(frozen=True)
class Proposal:
    """An architecture that is asked for next; `knobs` are what it was decoded from."""

    origin: str
    architecture: Architecture
    knobs: dict[str, float] | None = None


# Told the losses of what was judged, what else is in the batch, and for each trial how many go before it.
Propose = Callable[[Mapping[Architecture, float], Set[Architecture], Sequence[int]], Sequence[Architecture]]
Given = Callable[[], Sequence[Proposal]]


def propose_nothing() -> Sequence[Proposal]:
    """Gives nothing."""
    return ()


class Journal:
    """An Optuna study whose trials are architectures: one categorical parameter per part and per place of a stage.

    What decides how the search goes on is in the study, so that a search whose process died goes on as if it had
    not: trials that were running are closed, marked as lost, and asked for again in the same batches. What is queued
    is not in the study: seeds do not depend on chance, and are queued again. The study is read once, when it is
    opened: nobody else writes it.
    """

    def __init__(self, problem: Problem) -> None:
        """Open or continue the study."""
        self._queue: list[_Queued] = []
        self._propose: Propose | None = None
        self.problem = problem
        self.distributions = list_distributions(problem.space)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = optuna.storages.get_storage(open_storage(problem.storage))
        study = optuna.create_study(
            study_name=problem.study, storage=self._storage, load_if_exists=True, direction="minimize"
        )
        self._study = self._storage.get_study_id_from_name(study.study_name)
        if study.metric_names is None:
            with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                study.set_metric_names(["loss"])
        trials = [trial for trial in study.get_trials(deepcopy=False) if "architecture" in trial.user_attrs]
        self._trials = {trial.number: self._read(trial) for trial in trials}
        self._close_orphans(study)

    def sample_with(self, propose: Propose) -> None:
        """Who proposes what was not queued."""
        self._propose = propose

    def queue(self, seeds: Iterable[tuple[str, Architecture]]) -> None:
        """Queue what no run of this study has tried or queued."""
        known = {entry.architecture for entry in self._trials.values()}
        known |= {queued.architecture for queued in self._queue}
        for origin, architecture in seeds:
            if architecture not in known and self.problem.space.contains(architecture):
                known.add(architecture)
                self._queue.append(_Queued(architecture, {"origin": origin}))

    def has_queued(self) -> bool:
        """Whether the next trial is one that was queued."""
        return bool(self._queue)

    def ask(self, budget_ms: float, max_count: int, given: Given = propose_nothing) -> list[tuple[int, Architecture]]:
        """The next batch, at most so many: of what was queued; else what is given, and then who proposes decides.

        Args:
            given: the first places of a batch for somebody else; asked only where the queue does not fill them.
        """
        size, batch = self._find_next_batch(min(self.problem.batch, max_count))
        marks = {BATCH: batch, SIZE: size, BUDGET: self._name_budget(budget_ms)}
        chosen, self._queue = self._queue[:size], self._queue[size:]
        if len(chosen) < size:
            chosen += [_build_queued(proposal) for proposal in given()[len(chosen) : size]]
            chosen += self._list_proposed(size - len(chosen), [each.architecture for each in chosen])
        return [(self._begin(each.architecture, each.attributes | marks), each.architecture) for each in chosen]

    def count_since_better(self, budget_ms: float) -> int:
        """Proposals that ended at a budget since the best within it, seeds not counted; 0 before there is one."""
        name, best, since, begun = self._name_budget(budget_ms), float("inf"), 0, False
        for entry in self._trials.values():
            if LOST in entry.attributes or entry.state is TrialState.RUNNING or entry.attributes.get(POLISH) == name:
                continue  # a budget that was polished is settled
            here, loss = entry.attributes.get(BUDGET) == name, self._get_loss_within(entry, budget_ms)
            if loss < best or (here and not begun):
                best, since = min(loss, best), 0
            elif here and best < float("inf") and entry.attributes.get("origin") in (None, KNOBS):
                since += 1
            begun = begun or here
        return since

    def tell(self, number: int, quality: Quality) -> None:
        """The outcome of a trial; one whose loss is no number has failed."""
        if math.isnan(quality.loss):
            self.fail(number)
            return
        trial = self._storage.get_trial_id_from_study_id_trial_number(self._study, number)
        self._storage.set_trial_user_attr(trial, QUALITY, quality.to_json())
        self._storage.set_trial_state_values(
            trial, self._choose_state(self._trials[number].architecture), [quality.loss]
        )
        self._trials[number] = self._build_entry(number, self._trials[number], quality)

    def fail(self, number: int) -> None:
        """A trial that is no model."""
        trial = self._storage.get_trial_id_from_study_id_trial_number(self._study, number)
        self._storage.set_trial_state_values(trial, TrialState.FAIL)
        self._trials[number] = replace(self._trials[number], state=TrialState.FAIL)

    def add(self, architecture: Architecture, quality: Quality, origin: str, polishes: float | None = None) -> None:
        """A finished trial that somebody else proposed; once.

        Args:
            polishes: the budget in ms whose best it was made of, after the trials there.
        """
        if all(candidate.architecture != architecture for candidate in self.list_candidates()):
            attributes = {"origin": origin, QUALITY: quality.to_json()}
            attributes |= {} if polishes is None else {POLISH: self._name_budget(polishes)}
            number = self._create(architecture, attributes, self._choose_state(architecture), quality.loss)
            self._trials[number] = self._build_entry(number, self._trials[number], quality)

    def list_knobs(self, low_ms: float, high_ms: float) -> list[tuple[dict[str, float], float]]:
        """The settings of the knobs that led to latencies in a band, with the losses they led to."""
        tried = [
            (entry.attributes[KNOBS], entry.candidate) for entry in self._trials.values() if KNOBS in entry.attributes
        ]
        return [(knobs, end.quality.loss) for knobs, end in tried if end and low_ms <= end.predicted_ms <= high_ms]

    def list_candidates(self) -> list[Candidate]:
        """Every trial that ended with a loss."""
        return [entry.candidate for entry in self._trials.values() if entry.candidate is not None]

    def list_unpolished(self, budget_ms: float) -> list[Candidate]:
        """Every trial that ended with a loss, but those that polished a budget: what its polish starts from, always."""
        name = self._name_budget(budget_ms)
        return [
            e.candidate for e in self._trials.values() if e.candidate is not None and e.attributes.get(POLISH) != name
        ]

    def list_feasible(self, budget_ms: float) -> list[Candidate]:
        """Those within a budget, best first."""
        candidates = {c.architecture: c for c in self.list_candidates()}
        fitting = [c for c in candidates.values() if self.problem.meets(c.architecture, budget_ms)]
        return sorted(fitting, key=lambda c: (c.quality.loss, c.architecture.digest))

    def _build_entry(self, number: int, entry: "_Entry", quality: Quality) -> "_Entry":
        """As it is when the study is read again."""
        kept, ms = Quality.from_json(quality.to_json()), self.problem.predict_ms(entry.architecture)
        candidate = Candidate(entry.architecture, kept, ms, entry.attributes.get("origin", "evolution"), number)
        return replace(entry, state=TrialState.COMPLETE, candidate=candidate)

    def _list_proposed(self, count: int, taken: Sequence[Architecture]) -> list["_Queued"]:
        if not count:
            return []
        assert self._propose is not None
        seen = {candidate.architecture: candidate.quality.loss for candidate in self.list_candidates()}
        first = self._count_earlier() + len(taken)
        proposed = self._propose(seen, set(taken), range(first, first + count))
        return [_Queued(architecture, {}) for architecture in proposed]

    def _begin(self, architecture: Architecture, attributes: dict[str, Any]) -> int:
        """A trial that runs: it is in the study as a whole, or not at all."""
        return self._create(architecture, attributes, TrialState.RUNNING)

    def _create(
        self, architecture: Architecture, attributes: dict[str, Any], state: TrialState, loss: float | None = None
    ) -> int:
        ms = self.problem.predict_ms(architecture)
        known = {"digest": architecture.digest, "architecture": architecture.to_json(), "predicted_ms": ms}
        over = self._compute_excess(architecture)
        template = optuna.trial.create_trial(
            state=state, value=loss, params=encode(self.problem.space, architecture),
            distributions=dict(self.distributions), user_attrs=attributes | known,
            constraints=over, system_attrs={_DASHBOARD: list(over.values())},
        )  # fmt: skip
        trial = self._storage.create_new_trial(self._study, template_trial=template)
        number = self._storage.get_trial_number_from_id(trial)
        self._trials[number] = _Entry(architecture, attributes, state)
        return number

    def _compute_excess(self, architecture: Architecture) -> dict[str, float]:
        """By how much it is above the budget and every limit, as thought now; at most 0 where it keeps to them."""
        problem = self.problem
        over = {"latency_ms": problem.predict_ms(architecture) - problem.budget_ms}
        return over | {limit.name: limit.count(architecture) - limit.maximum for limit in problem.limits}

    def _choose_state(self, architecture: Architecture) -> TrialState:
        """How Optuna's trial ends that was judged: pruned where it breaks the budget or a limit.

        Optuna's own `best_trial` reads constraints, but its storages, and so its dashboard, take the least loss of all
        that are complete, which is the parent's.
        """
        return TrialState.COMPLETE if max(self._compute_excess(architecture).values()) <= 0 else TrialState.PRUNED

    def _find_next_batch(self, size: int) -> tuple[int, int]:
        """How many belong to the next batch, and its name: of one that was begun before, what is left of it."""
        if not self._queue:
            return size, self._count_earlier()
        begun = self._queue[0].attributes.get(BATCH)
        if begun is None:
            return min(size, len(self._queue)), self._count_earlier()
        if any(
            e.candidate and e.attributes.get(BATCH) == begun for e in self._trials.values()
        ):  # all had been proposed
            return sum(queued.attributes.get(BATCH) == begun for queued in self._queue), begun
        return self._queue[0].attributes[SIZE], begun

    def _count_earlier(self) -> int:
        """How many trials went before, as if no process had died."""
        return sum(LOST not in entry.attributes for entry in self._trials.values())

    def _name_budget(self, budget_ms: float) -> str:
        """Names a budget under the latency model as it is now: once that is corrected, the search begins anew."""
        space = self.problem.space
        edges = (space.parent, space.decode([space.choices[0]]), space.decode([space.choices[-1]]))
        return " ".join(f"{ms:.9g}" for ms in (budget_ms, *map(self.problem.predict_ms, edges)))

    def _get_loss_within(self, entry: "_Entry", budget_ms: float) -> float:
        """The loss of a trial that keeps to a budget; infinite for others."""
        meets = entry.candidate and self.problem.meets(entry.architecture, budget_ms)
        return entry.candidate.quality.loss if entry.candidate and meets else float("inf")

    def _read(self, trial: FrozenTrial) -> "_Entry":
        architecture = Architecture.from_json(trial.user_attrs["architecture"])
        entry = _Entry(architecture, dict(trial.user_attrs), trial.state)
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            return entry
        return self._build_entry(trial.number, entry, Quality.from_json(trial.user_attrs[QUALITY]))

    def _close_orphans(self, study: optuna.Study) -> None:
        """Trials that ran when an earlier process died never end: close them, and queue them before all else."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            entry = self._trials.get(trial.number)
            if entry is None:
                continue
            self._storage.set_trial_user_attr(trial._trial_id, LOST, True)
            self._queue.append(_Queued(entry.architecture, entry.attributes))
            self._trials[trial.number] = replace(entry, attributes=entry.attributes | {LOST: True})
            self.fail(trial.number)


@dataclass(frozen=True)
class _Entry:
    """A trial: what it was asked with, and the candidate that it turned out to be if it ended with a loss."""

    architecture: Architecture
    attributes: dict[str, Any]
    state: TrialState
    candidate: Candidate | None = None


@dataclass(frozen=True)
class _Queued:
    """An architecture that waits for its turn, with what its trial will say of it."""

    architecture: Architecture
    attributes: dict[str, Any]


def _build_queued(proposal: Proposal) -> _Queued:
    knobs = {} if proposal.knobs is None else {KNOBS: proposal.knobs}
    return _Queued(proposal.architecture, {"origin": proposal.origin, **knobs})
