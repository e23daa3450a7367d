"""Level-switch evolution as an Optuna sampler: swap units in and out, stay inside a latency band.

EvoPress (Sieberling et al., 2024) swaps one removed with one kept unit of the same kind, so that the size never
changes. Here units have measured costs, and any moves are allowed that end in a band under the budget. Of many
proposals, and of the exact solutions of the surrogate, the one is tried that the surrogate expects to lose least:
after an architecture with several other drops was accepted, everything around it is scored anew given those drops.
"""

import random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nas.search.journal import LEVELS
from nas.search.problem import Problem
from nas.search.solve import solve
from nas.search.surrogate import Surrogate
from search_spaces.architecture import Architecture
from search_spaces.space import empty
from search_spaces.unit import Kind, Unit

BAND = 0.90  # proposals use at least this share of the budget
PROPOSALS = 240
ELITE = 4
SOLVED = 3  # solutions of the surrogate among the proposals
ROUNDING = 1e-9  # ms, so that what fits exactly is proposed


class LevelSwitchSampler(BaseSampler):
    """Proposes neighbours of the best feasible architectures; deterministic for (seed, trial number)."""

    def __init__(self, problem: Problem, library: dict[Unit, float], budget_ms: float) -> None:
        """`library` is the loss of each unit dropped alone; proposals stay just under `budget_ms`."""
        self._problem, self._library, self._budget_ms = problem, library, budget_ms
        self._saves = problem.saves_ms()
        self._ms: dict[Architecture, float] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """One categorical parameter per unit of the space."""
        return {str(unit): CategoricalDistribution(LEVELS) for unit in self._problem.space.units}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The proposal of this trial: one level per unit."""
        rng = random.Random(f"{self._problem.seed}/{trial.number}")
        seen = self._evaluated(study)
        expected = Surrogate.fit(self._problem.space.units, self._library, list(seen.items()))
        elite = sorted(filter(self._fits, seen), key=lambda a: seen[a])[:ELITE] or [self._problem.space.parent]
        proposals = {self._mutate(rng, rng.choice(elite)) for _ in range(PROPOSALS)}
        proposals |= set(self._solved(expected))
        fresh = sorted(proposals - set(seen), key=lambda a: a.digest)
        inside = [a for a in fresh if self._fits(a) and self._latency(a) >= BAND * self._budget_ms]
        pool = inside or [a for a in fresh if self._fits(a)] or fresh or [self._problem.space.sample(rng, 0.5)]
        # Mostly the most promising; now and then one of the next, so that the surrogate meets what it does not know.
        pool.sort(key=expected)
        best = pool[min(len(pool) - 1, int(rng.expovariate(1.5)))]
        return dict(self._problem.space.encode(best))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Keep a unit that no proposal covered."""
        return LEVELS[0]

    def _solved(self, expected: Surrogate) -> list[Architecture]:
        """The exact solve again, with the pairs that were learned."""
        if not expected.pairs:
            return []
        needed = self._latency(self._problem.space.parent) - self._budget_ms
        return solve(self._problem.space, self._library, self._saves, needed, SOLVED, expected.pairs)

    def _mutate(self, rng: random.Random, architecture: Architecture) -> Architecture:
        """Restore one to three units, drop others until the budget holds, restore what still fits; at random.

        Steps are judged by the additive estimate around the architecture: the latency model is asked only about
        the proposals that come out, not about the thousands of steps on the way to them.
        """
        space = self._problem.space
        dropped = [unit for unit in space.units if architecture.drops(unit)]
        kept = [unit for unit in space.units if not architecture.drops(unit)]
        needed = self._saved(set(dropped)) + self._latency(architecture)
        needed -= self._budget_ms + ROUNDING
        gone = set(dropped) - set(rng.sample(dropped, min(len(dropped), rng.choice((1, 1, 1, 2, 2, 3)))))
        for unit in rng.sample(kept, len(kept)):
            if self._saved(gone) >= needed:
                break
            gone.add(unit)
        for unit in rng.sample(sorted(gone), len(gone)):
            if self._saved(gone - {unit}) >= needed:
                gone.discard(unit)
        candidate = space.decode(gone)
        return architecture if empty(candidate) else candidate

    def _saved(self, gone: set[Unit]) -> float:
        """Estimated ms that dropping these units saves; a unit whose block goes too is not counted beside it."""
        blocks = {unit.layer for unit in gone if unit.kind is Kind.BLOCK}
        counted = [unit for unit in gone if unit.kind is Kind.BLOCK or unit.layer not in blocks]
        return sum(self._saves[unit] for unit in sorted(counted))  # sorted: the sum of a set differs between runs

    def _evaluated(self, study: optuna.Study) -> dict[Architecture, float]:
        """Losses of the finished trials; the parent's zero included."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return {
            Architecture.from_json(t.user_attrs["architecture"]): t.user_attrs["loss"]
            for t in trials
            if "architecture" in t.user_attrs
        }

    def _latency(self, architecture: Architecture) -> float:
        if architecture not in self._ms:
            self._ms[architecture] = self._problem.ms(architecture)
        return self._ms[architecture]

    def _fits(self, architecture: Architecture) -> bool:
        return self._latency(architecture) <= self._budget_ms
