"""TPE over a few global knobs, with the exact solve as decoder.

One categorical parameter per unit is too many for TPE: it treats them as independent. Four numbers are not: they bend
the library's losses, and the exact solve turns the bent losses into the architecture that is best under them. What
such an architecture really loses is what TPE (Bergstra et al., 2011) learns from.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution

from nas.search.problem import Problem
from nas.search.solve import solve
from nas.search.surrogate import Surrogate
from search_spaces.architecture import Architecture
from search_spaces.unit import Kind, Unit

DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "attention": FloatDistribution(0.5, 2.0, log=True),
    "depth": FloatDistribution(-1.0, 1.0),
    "exponent": FloatDistribution(0.5, 1.5),
    "pairs": FloatDistribution(0.0, 2.0),
}
TRIES = 6  # draws until one decodes to something new
STARTUP = 4  # random draws before TPE has something to learn from


@dataclass(frozen=True)
class Knobs:
    """How losses are bent.

    Attributes:
        attention: how much an attention's loss counts against an MLP's or a block's.
        depth: how much more deep units count than shallow ones; a factor e between the ends at 1.
        exponent: below 1 many small losses are preferred to a large one less strongly, above 1 more.
        pairs: how far the learned pair terms are believed.
    """

    attention: float
    depth: float
    exponent: float
    pairs: float

    def bend(self, library: dict[Unit, float], layers: int) -> dict[Unit, float]:
        """The library's losses, bent; the largest keeps its size."""
        largest = max(max(library.values()), 1e-12)

        def bent(unit: Unit, loss: float) -> float:
            kind = self.attention if unit.kind is Kind.ATTENTION else 1.0
            slope = math.exp(self.depth * (unit.layer / max(1, layers - 1) - 0.5))
            return float(kind * slope * largest * (max(loss, 0.0) / largest) ** self.exponent)

        return {unit: bent(unit, loss) for unit, loss in library.items()}

    def to_json(self) -> dict[str, Any]:
        """The four numbers by name."""
        return asdict(self)


def propose(
    problem: Problem,
    surrogate: Surrogate,
    budget_ms: float,
    told: Sequence[tuple[Knobs, float]],
    known: Collection[Architecture],
) -> tuple[Knobs, Architecture] | None:
    """The next setting of the knobs that decodes to an architecture nobody has tried; None if it is hard to find.

    Args:
        surrogate: has the library and the pair terms.
        told: settings that were tried, with the real losses.
    """
    sampler = optuna.samplers.TPESampler(seed=problem.seed + len(told), n_startup_trials=STARTUP)
    study = optuna.create_study(sampler=sampler)
    for knobs, loss in told:
        study.add_trial(
            optuna.trial.create_trial(params=knobs.to_json(), distributions=DISTRIBUTIONS, value=loss)
        )  # fmt: skip
    saves, needed = problem.saves_ms(), problem.ms(problem.space.parent) - budget_ms
    for _ in range(TRIES):
        knobs = Knobs(**study.ask(DISTRIBUTIONS).params)
        losses = knobs.bend(surrogate.library, problem.space.depth)
        pairs = {pair: knobs.pairs * value for pair, value in surrogate.pairs.items()}
        for architecture in solve(problem.space, losses, saves, needed, 1, pairs, problem.limits):
            if architecture not in known:
                return knobs, architecture
    return None
