"""Level-switch evolution as an Optuna sampler: swap units in and out, stay inside a latency band.

EvoPress (Sieberling et al., 2024) swaps one removed with one kept unit of the same kind, so that the size never
changes. Here units have measured costs and any moves are allowed whose latency stays in a band under the budget;
of many proposals the one is tried that a model of the losses seen so far (each unit's own, plus what pairs add)
expects to be best.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nas.search.journal import LEVELS
from nas.search.problem import Problem
from search_spaces.architecture import Architecture
from search_spaces.space import empty
from search_spaces.unit import Kind, Unit

BAND = 0.90  # proposals use at least this share of the budget
PROPOSALS = 240
ELITE = 4
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
        feasible = [architecture for architecture in seen if self._fits(architecture)]
        elite = sorted(feasible, key=lambda a: seen[a])[:ELITE] or [self._problem.space.parent]
        proposals = {self._mutate(rng, rng.choice(elite)) for _ in range(PROPOSALS)}
        fresh = sorted(proposals - set(seen), key=lambda a: a.digest)
        inside = [a for a in fresh if self._fits(a) and self._latency(a) >= BAND * self._budget_ms]
        pool = inside or [a for a in fresh if self._fits(a)] or fresh or [self._problem.space.sample(rng, 0.5)]
        # Mostly the most promising; now and then one of the next, so that the model meets what it does not know.
        pool.sort(key=expected)
        best = pool[min(len(pool) - 1, int(rng.expovariate(1.0)))]
        return dict(self._problem.space.encode(best))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Keep a unit that no proposal covered."""
        return LEVELS[0]

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


class Surrogate:
    """Expected log loss of an architecture: the summed library losses, corrected by ridge regression.

    The correction is linear in the units and in pairs of units of neighbouring layers. It is used only when
    leave-one-out says that it predicts better than the plain sum.
    """

    def __init__(self, units: Sequence[Unit], library: dict[Unit, float], weights: np.ndarray | None) -> None:
        """`weights` None means the plain sum."""
        self._units, self._library, self._weights = units, library, weights

    @classmethod
    def fit(
        cls, units: Sequence[Unit], library: dict[Unit, float], seen: list[tuple[Architecture, float]]
    ) -> "Surrogate":
        """Fit the correction to evaluated architectures."""
        plain = cls(units, library, None)
        known = [(a, loss) for a, loss in seen if loss > 0 and a.dropped]
        if len(known) < 8:
            return plain
        features = np.array([plain._features(a) for a, _ in known])
        residual = np.array([np.log(loss) - plain._additive(a) for a, loss in known])
        penalty = 1.0
        gram = features @ features.T + penalty * np.eye(len(known))
        dual = np.linalg.solve(gram, residual)
        # Leave-one-out of kernel ridge: residual_i = dual_i / inverse_ii.
        left_out = dual / np.diag(np.linalg.inv(gram))
        if np.abs(left_out).mean() >= np.abs(residual - residual.mean()).mean():
            return plain
        return cls(units, library, features.T @ dual)

    def __call__(self, architecture: Architecture) -> float:
        """The expected log loss; lower is better."""
        value = self._additive(architecture)
        return value if self._weights is None else value + float(self._features(architecture) @ self._weights)

    def _additive(self, architecture: Architecture) -> float:
        return float(np.log(sum(max(self._library[u], 0.0) for u in self._units if architecture.drops(u)) + 1e-9))

    def _features(self, architecture: Architecture) -> np.ndarray:
        drops = np.array([1.0 if architecture.drops(unit) else 0.0 for unit in self._units])
        layers = np.array([unit.layer for unit in self._units])
        near = np.triu(np.abs(layers[:, None] - layers[None, :]) <= 1, k=1)
        pairs = np.outer(drops, drops)[near]
        return np.concatenate([[1.0], drops, 0.5 * pairs])
