"""TPE over a few global knobs, with the exact solve as decoder.

One categorical parameter per unit is too many for TPE: it treats them as independent. A handful of numbers is not: they
reweight the library's losses, and the exact solve turns those into the architecture that is best under them. What such
an architecture really loses is what TPE (Bergstra et al., 2011) learns from.
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
from search_spaces.kinds import Kind
from search_spaces.unit import Choice, is_structural

DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "attention": FloatDistribution(0.5, 2.0, log=True),
    "depth": FloatDistribution(-1.0, 1.0),
    "exponent": FloatDistribution(0.5, 1.5),
    "pairs": FloatDistribution(0.0, 2.0),
}
TOKENS: dict[str, BaseDistribution] = {"tokens": FloatDistribution(0.25, 4.0, log=True)}
TRIES = 6  # draws until one decodes to something new
STARTUP = 4  # random draws before TPE has something to learn from


@dataclass(frozen=True)
class Knobs:
    """How losses are reweighted.

    Attributes:
        attention: how much an attention's loss counts against an MLP's or a block's.
        depth: how much more deep units count than shallow ones; a factor e between the ends at 1.
        exponent: below 1 many small losses are preferred to a large one less strongly, above 1 more.
        pairs: how far the learned pair terms are believed.
        tokens: how much a token schedule's loss counts against that of parts.
    """

    attention: float
    depth: float
    exponent: float
    pairs: float
    tokens: float = 1.0

    def reweight(self, library: dict[Choice, float], layers: int) -> dict[Choice, float]:
        """The library's losses, reweighted; the largest of a part keeps its size. Steps are sums and only scaled."""
        largest = max([1e-12, *(loss for choice, loss in library.items() if is_structural(choice))])

        def reweight_choice(choice: Choice, loss: float) -> float:
            if not is_structural(choice):
                return self.tokens * loss
            kind = self.attention if choice.unit.kind is Kind.ATTENTION else 1.0
            slope = math.exp(self.depth * (min(choice.layer, layers - 1) / max(1, layers - 1) - 0.5))
            return float(kind * slope * largest * (max(loss, 0.0) / largest) ** self.exponent)

        return {choice: reweight_choice(choice, loss) for choice, loss in library.items()}

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return asdict(self)


def list_distributions(problem: Problem) -> dict[str, BaseDistribution]:
    """The knobs there are in a space: the last is for schedules and parts beside each other."""
    both = 0 < len(problem.space.structure) < len(problem.space.choices)
    return DISTRIBUTIONS | (TOKENS if both else {})


def propose(
    problem: Problem,
    surrogate: Surrogate,
    budget_ms: float,
    tried: Sequence[tuple[Knobs, float]],
    known: Collection[Architecture],
) -> tuple[Knobs, Architecture] | None:
    """The next setting of the knobs that decodes to an architecture nobody has tried; None if it is hard to find.

    Args:
        surrogate: has the library and the pair terms.
        tried: settings that were tried, with the real losses.
    """
    sampler = optuna.samplers.TPESampler(seed=problem.seed + len(tried), n_startup_trials=STARTUP)
    study = optuna.create_study(sampler=sampler)
    ranges = list_distributions(problem)
    for knobs, loss in tried:
        params = {name: value for name, value in knobs.to_json().items() if name in ranges}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, value=loss))
    saves, needed = problem.estimate_savings(), problem.predict_ms(problem.space.start) - budget_ms
    for _ in range(TRIES):
        knobs = Knobs(**study.ask(ranges).params)
        losses = knobs.reweight(surrogate.library, problem.space.depth)
        pairs = {pair: knobs.pairs * value for pair, value in surrogate.pairs.items()}
        for architecture in solve(problem.space, losses, saves, needed, 1, pairs, problem.limits):
            if architecture not in known:
                return knobs, architecture
    return None
