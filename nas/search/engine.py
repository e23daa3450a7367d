"""Our own method: library, descent, exact solve, then level-switch evolution on the real loss, in one Optuna study."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from nas.search.greedy_removal import GreedyRemoval
from nas.search.halving import (
    CLEARLY,
    CLOSE,
    IncumbentThreshold,
    compute_paired_difference,
    find_statistically_tied,
    judge_all,
)
from nas.search.journal import Given, Journal, Proposal, propose_nothing
from nas.search.knobs import Knobs, propose
from nas.search.library import score_library
from nas.search.local_search import propose_combined_changes
from nas.search.methods import METHODS, ONE_SHOT, add_back, drop_as_published
from nas.search.methods.schedules import exchange_parts_for_tokens, fit_to_budget, list_published_schedules
from nas.search.outcome import Candidate, SearchOutcome, build_infeasible_error, evaluate_in_full
from nas.search.problem import SCORING, Problem
from nas.search.proposals import BAND, LevelSwitch
from nas.search.solve import solve
from search_spaces.architecture import Architecture
from search_spaces.space import is_empty
from search_spaces.unit import Choice

SOLVED_BUDGETS = (1.0, 0.97, 0.94)  # of the asked one: the additive model may overrate what a drop saves
SOLUTIONS = 1  # at each of them
RUNNERS_UP = 5  # judged on all items beside the best, at the budgets of a front
ELITE = 4  # a candidate is of interest while it may be among so many, or within CLOSE of the best
KNOBS_EVERY = 3  # trials of a stretch without a better one
POLISHED = 3  # of the best of a budget are given other token schedules
EXCHANGES = 3  # rounds of parts for tokens
EXCHANGED = 12  # judged in each of them
EXCHANGE = "exchange"
NEARBY = "nearby"
NEARBY_TRIED = 6  # combined changes of the best of a budget that are judged


class Engine:
    """The state of one search: its journal and what was judged."""

    def __init__(self, problem: Problem) -> None:
        """Open or continue the study."""
        self.problem, self.journal = problem, Journal(problem)
        self.began = time.monotonic()

    def run(self) -> SearchOutcome:
        """The whole search.

        Raises:
            NoFeasibleCandidate: nothing that was tried meets the budget.
        """
        problem = self.problem
        baselines = rank_one_shot(problem)
        if problem.is_feasible(problem.space.start) and not problem.front:
            self.journal.queue([("parent", problem.space.start)])
            self._run_trials(problem.budget_ms)
        else:
            self._explore(baselines)
        ranked = self._rank(
            find_statistically_tied(problem, self.journal.list_feasible(problem.budget_ms), problem.finalists)
        )
        if not ranked:
            raise build_infeasible_error(problem, self.journal.list_candidates())
        return self._build_outcome(ranked, baselines)

    def _explore(self, baselines: dict[str, Architecture]) -> None:
        """Each budget in turn, loosest first; what was learned at one is where the next begins."""
        problem, start = self.problem, self.problem.space.start
        library = score_library(problem, problem.rungs[0], partial(problem.on_phase, SCORING))
        descent = GreedyRemoval(problem, library)
        budgets = sorted({*problem.front, problem.budget_ms}, reverse=True)
        if problem.space.fixed is not None:  # it may meet budgets that no other trial is made for
            self.journal.add(start, problem.evaluate(start, problem.fidelity), "parent")
        descent.run(budgets[-1], self._is_time_up)
        for number, budget in enumerate(budgets, 1):
            if problem.meets(start, budget):
                continue
            below = descent.find_first_within_budget(budget)
            seeds = [("parent", start), *([("descent", below)] if below else []), *baselines.items()]
            self.journal.queue([*seeds, *self._solve(library, budget)])
            self._join(budget)
            sampler = LevelSwitch(problem, descent, budget)
            self.journal.sample_with(sampler.propose)
            self._evolve(sampler, budget, problem.trials * number)
            self._search_nearby(sampler, budget, problem.trials * number)
            self._polish(budget, sampler)

    def _join(self, budget_ms: float) -> None:
        """Published token schedules take part, with ratios of their own."""
        problem = replace(self.problem, budget_ms=budget_ms)
        self._add(budget_ms, list_published_schedules(problem, problem.space.parent))

    def _polish(self, budget_ms: float, sampler: LevelSwitch) -> None:
        """The best structures of a budget: other schedules, what is left spent on more tokens, parts for tokens.

        It starts from what the trials found, whatever it added before: a search that is run again ends as it did.
        """
        problem = replace(self.problem, budget_ms=budget_ms)
        best = self._select_by_structure(budget_ms)
        for structure in dict.fromkeys(architecture.structure for architecture in best):
            self._add(budget_ms, list_published_schedules(problem, structure), polish=True)
        fuller = (fit_to_budget(problem, architecture) for architecture in best)
        self._add(budget_ms, [("filled", each) for each in fuller if each is not None], polish=True)
        if problem.space.structure and problem.space.reduction is not None:
            self._exchange(problem, sampler)

    def _search_nearby(self, sampler: LevelSwitch, budget_ms: float, trials: int) -> None:
        """Combined changes of the best that trials found within a budget, if there are any trials left."""
        problem, found = replace(self.problem, budget_ms=budget_ms), self.journal.list_unpolished(budget_ms)
        count, best = min(NEARBY_TRIED, trials - len(found)), self._list_unpolished_within(budget_ms)[:1]
        if count <= 0 or not best or not problem.space.structure or self._is_time_up():
            return
        surrogate = sampler.fit_surrogate({each.architecture: each.quality.loss for each in found})
        near = propose_combined_changes(problem, best[0].architecture, surrogate, count)
        self._add(budget_ms, [(NEARBY, architecture) for architecture in near], polish=True)

    def _exchange(self, problem: Problem, sampler: LevelSwitch) -> None:
        """Parts for tokens, on from the best, as long as that leads to a better one.

        A switch of levels moves few stages at a time; here all of them make up for a part.
        """
        seen = {each.architecture: each.quality.loss for each in self.journal.list_unpolished(problem.budget_ms)}
        surrogate, feasible = sampler.fit_surrogate(seen), self.journal.list_feasible(problem.budget_ms)
        best = next((candidate for candidate in feasible if candidate.origin != EXCHANGE), None)
        for _ in range(EXCHANGES):
            if best is None or self._is_time_up():
                return
            near = surrogate.rank(exchange_parts_for_tokens(problem, best.architecture))[:EXCHANGED]
            self._add(problem.budget_ms, [(EXCHANGE, architecture) for architecture in near], polish=True)
            similar = (each for each in self.journal.list_feasible(problem.budget_ms) if each.architecture in near)
            better = next(similar, best)
            best = better if better.quality.loss < best.quality.loss else None

    def _add(self, budget_ms: float, proposed: Sequence[tuple[str, Architecture]], polish: bool = False) -> None:
        """Judge what somebody else proposed, all against the same threshold."""
        qualities = judge_all(
            self.problem, [architecture for _, architecture in proposed], self._get_threshold(budget_ms)
        )
        for (name, architecture), quality in zip(proposed, qualities, strict=True):
            self.journal.add(architecture, quality, name, budget_ms if polish else None)

    def _list_unpolished_within(self, budget_ms: float) -> list[Candidate]:
        """What the trials found within a budget, best first."""
        within = [c for c in self.journal.list_unpolished(budget_ms) if self.problem.meets(c.architecture, budget_ms)]
        return sorted(within, key=lambda c: (c.quality.loss, c.architecture.digest))

    def _select_by_structure(self, budget_ms: float) -> list[Architecture]:
        """The best within a budget that differ in their parts, not in their tokens only."""
        best: dict[Architecture, Architecture] = {}
        for candidate in self._list_unpolished_within(budget_ms):
            best.setdefault(candidate.architecture.structure, candidate.architecture)
        return list(best.values())[:POLISHED]

    def _solve(self, library: dict[Choice, float], budget_ms: float) -> list[tuple[str, Architecture]]:
        problem = self.problem
        saves, start_ms = problem.estimate_savings(), problem.predict_ms(problem.space.start)
        return [
            ("mip", architecture)
            for share in SOLVED_BUDGETS
            for architecture in solve(
                problem.space, library, saves, start_ms - share * budget_ms, SOLUTIONS, limits=problem.limits
            )
        ]

    def _evolve(self, sampler: LevelSwitch, budget_ms: float, trials: int) -> None:
        """Trials until there are enough, nothing better turns up, or time is up.

        A time limit never costs the seeds a first feasible one.
        """
        while (left := trials - len(self.journal.list_candidates())) > 0:
            if self._is_time_up() and (
                self.journal.list_feasible(self.problem.budget_ms) or not self.journal.has_queued()
            ):
                return
            since = self.journal.count_since_better(budget_ms)
            if since >= self.problem.settled_after:
                return
            self._run_trials(budget_ms, left, partial(self._propose_by_knobs, sampler, budget_ms, since, left))

    def _propose_by_knobs(self, sampler: LevelSwitch, budget_ms: float, since: int, left: int) -> list[Proposal]:
        """TPE's share of the next batch."""
        seen = {candidate.architecture: candidate.quality.loss for candidate in self.journal.list_candidates()}
        tried = [(Knobs(**knobs), loss) for knobs, loss in self.journal.list_knobs(BAND * budget_ms, budget_ms)]
        proposed: list[Proposal] = []
        for turn in range(since, since + min(self.problem.batch, left)):
            if turn % KNOBS_EVERY == KNOBS_EVERY - 1:
                known = {*seen, *(each.architecture for each in proposed)}
                proposal = propose(self.problem, sampler.fit_surrogate(seen), budget_ms, tried, known)
                if proposal is not None:
                    proposed.append(Proposal("knobs", proposal[1], proposal[0].to_json()))
        return proposed

    def _is_time_up(self) -> bool:
        limit = self.problem.time_limit_s
        return limit is not None and time.monotonic() - self.began > limit

    def _run_trials(self, budget_ms: float, max_trials: int = 1, given: Given = propose_nothing) -> None:
        """A batch: proposed together, judged against the same threshold, told in order."""
        asked = self.journal.ask(budget_ms, max_trials, given)
        models = [architecture for _, architecture in asked if not is_empty(architecture)]
        qualities = dict(zip(models, judge_all(self.problem, models, self._get_threshold(budget_ms)), strict=True))
        for trial, architecture in asked:
            if architecture in qualities:
                self.journal.tell(trial, qualities[architecture])
                self.problem.on_trial(1, self._describe_best())
            else:
                self.journal.fail(trial)

    def _get_threshold(self, budget_ms: float) -> IncumbentThreshold | None:
        feasible = self.journal.list_feasible(budget_ms)
        if not feasible:
            return None
        best = feasible[0].quality.loss
        worst = feasible[min(ELITE, len(feasible)) - 1].quality.loss
        return IncumbentThreshold(feasible[0].architecture, min(worst - best, CLOSE * best))

    def _find_leaders(self, budget_ms: float) -> list[Candidate]:
        """The best at a budget of the front, and who is not clearly worse among those next to it."""
        nearest = self.journal.list_feasible(budget_ms)[: min(1 + RUNNERS_UP, self.problem.max_tied)]
        return [candidate for candidate in nearest if not self._is_clearly_worse(candidate, nearest[0])]

    def _is_clearly_worse(self, candidate: Candidate, best: Candidate) -> bool:
        """Whether the items that trials end on tell the two apart, or fewer did."""
        if candidate is best or candidate.quality.items < best.quality.items:
            return candidate is not best
        problem = self.problem
        estimate, error = compute_paired_difference(
            problem, candidate.architecture, best.architecture, problem.fidelity
        )
        return estimate - CLEARLY * error > best.quality.loss

    def _rank(self, chosen: Iterable[Candidate]) -> tuple[Candidate, ...]:
        """Judged on all items, best first."""
        judged = evaluate_in_full(self.problem, chosen)
        return tuple(sorted(judged, key=lambda c: (c.quality.loss, c.predicted_ms, c.architecture.digest)))

    def _build_outcome(self, ranked: tuple[Candidate, ...], baselines: dict[str, Architecture]) -> SearchOutcome:
        problem, everything = self.problem, {c.architecture: c for c in self._adjust_losses(ranked[0])}
        leaders = {c.architecture: c for budget in problem.front for c in self._find_leaders(budget)}
        fronts = evaluate_in_full(problem, leaders.values())
        problem.prefetch([(architecture, problem.fidelity) for architecture in baselines.values()])
        parent = self._build_named(problem.space.parent, "parent", 0)
        parent = replace(parent, quality=problem.evaluate(parent.architecture, None), full=True)
        everything |= {candidate.architecture: candidate for candidate in (parent, *fronts, *ranked)}

        def evaluate_baseline(architecture: Architecture, name: str) -> Candidate:
            known = everything.get(architecture)
            return replace(known, origin=name, trial=-1) if known else self._build_named(architecture, name, -1)

        return SearchOutcome(
            parent=parent,
            ranked=ranked,
            candidates=tuple(everything.values()),
            baselines={name: evaluate_baseline(architecture, name) for name, architecture in baselines.items()},
            trials=len(self.journal.list_candidates()),
            seconds=time.monotonic() - self.began,
        )

    def _adjust_losses(self, winner: Candidate) -> list[Candidate]:
        """Every trial's loss as expected on all items: few items may be easier or harder as a whole."""
        seen = self.problem.evaluate(winner.architecture, self.problem.fidelity).loss
        factor = winner.quality.loss / seen if seen > 0 else 1.0
        trials = self.journal.list_candidates()
        return [replace(c, quality=replace(c.quality, loss=factor * c.quality.loss)) for c in trials]

    def _build_named(self, architecture: Architecture, name: str, trial: int) -> Candidate:
        quality = self.problem.evaluate(architecture, self.problem.fidelity)
        return Candidate(architecture, quality, self.problem.predict_ms(architecture), name, trial)

    def _describe_best(self) -> str:
        best = next(iter(self.journal.list_feasible(self.problem.budget_ms)), None)
        if best is None:
            return "nothing feasible yet"
        p = self.problem.percentile
        return f"best loss so far {best.quality.loss:.4f}, p{p} {best.predicted_ms:.2f} ms"


def rank_one_shot(problem: Problem) -> dict[str, Architecture]:
    """Every one-shot cosine ranking brought to the budget, as published and after adding back what still fits."""
    rankings: dict[str, Architecture] = {}
    for name in ONE_SHOT:
        order = METHODS[name].find_removal_order(problem)
        if order:
            rankings[name] = drop_as_published(problem, order)
            rankings[f"{name}+add-back"] = add_back(problem, order)
    return rankings
