"""The exact solve: the choices whose summed loss is least and whose summed milliseconds meet the budget.

A multiple-choice knapsack as a mixed-integer program (HiGHS through SciPy): of the levels of a unit at most one.
Summed losses are wrong for many choices together, so its solutions seed the study and do not decide.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.search.limit import Limit
from nas.search.savings import Savings
from search_spaces.architecture import Architecture
from search_spaces.space import Space, is_empty
from search_spaces.unit import Choice, is_cumulative

Pair = tuple[Choice, Choice]

TIME_LIMIT_S = 2.0  # what has been found by then is taken
_GAP_BITS = 2  # each solution differs from the earlier ones in at least so many choices


def solve(
    space: Space,
    loss: dict[Choice, float],
    saves_ms: dict[Choice, float] | Savings,
    needed_ms: float,
    solutions: int = 1,
    pairs: dict[Pair, float] | None = None,
    limits: Sequence[Limit] = (),
) -> list[Architecture]:
    """Diverse best architectures that save at least `needed_ms`, best first; fewer if there are not so many.

    Args:
        space: its choices are the binary variables, its rules are constraints.
        loss: loss of each choice made alone; of a cumulative one, what it adds to those that it implies.
        saves_ms: what each saves, likewise; `Savings` also has what two save less together.
        needed_ms: what must be saved.
        solutions: how many to look for, each at a Hamming distance of at least two from the others.
        pairs: what making both of two choices adds to the sum (or takes from it).
        limits: a row each.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    choices, more = space.choices, pairs or {}
    savings = saves_ms if isinstance(saves_ms, Savings) else Savings(saves_ms, {})
    together = sorted(more.keys() | savings.overlap.keys())
    cost = np.array([_compute_cost(each, loss[each]) for each in choices] + [more.get(pair, 0.0) for pair in together])
    rows = _build_rows(space, savings, needed_ms, together, limits)
    whole = np.array([1] * len(choices) + [0] * len(together))  # a product of two choices is 0 or 1 by its rows
    optima: list[Architecture] = []
    for _ in range(4 * solutions):
        if len(optima) == solutions:
            break
        answer = milp(
            cost, constraints=LinearConstraint(*rows.build_matrix()), integrality=whole, bounds=Bounds(0, 1),
            options={"time_limit": TIME_LIMIT_S},
        )  # fmt: skip
        if answer.x is None:
            break
        chosen = answer.x[: len(choices)] > 0.5
        architecture = space.decode({choice for choice, made in zip(choices, chosen, strict=True) if made})
        if not is_empty(architecture):
            optima.append(architecture)
        # No-good cut: sum over chosen of (1 - x) + sum over others of x >= the gap.
        cut = {column: -1.0 if made else 1.0 for column, made in enumerate(chosen)}
        rows.add(cut, (_GAP_BITS if not is_empty(architecture) else 1) - float(chosen.sum()), np.inf)
    return optima


def _compute_cost(choice: Choice, loss: float) -> float:
    """A cumulative choice may cost less than nothing beside those that it implies, which it takes along."""
    return (loss if is_cumulative(choice) else max(loss, 0.0)) + 1e-9


def _build_rows(
    space: Space, savings: Savings, needed_ms: float, together: list[Pair], limits: Sequence[Limit]
) -> "_Rows":
    """What every solution keeps to."""
    choices = space.choices
    rows, column = _Rows(len(choices), len(together)), {choice: at for at, choice in enumerate(choices)}
    overlap = {len(choices) + at: -savings.overlap[pair] for at, pair in enumerate(together) if pair in savings.overlap}
    rows.add({column[each]: savings.alone[each] for each in choices} | overlap, needed_ms, np.inf)
    for limit in limits:
        rows.add({column[each]: limit.count_saved(each) for each in choices}, limit.excess, np.inf)
    for group in space.exclusions:
        rows.add(dict.fromkeys((column[each] for each in group), 1.0), -np.inf, 1.0)
    for choice, implied in space.implications:
        rows.add({column[choice]: -1.0, column[implied]: 1.0}, 0.0, np.inf)
    rows.link([(column[one], column[other]) for one, other in together])
    return rows


class _Rows:
    """Linear constraints over the choices and the products of pairs."""

    def __init__(self, choices: int, pairs: int) -> None:
        self.choices, self.width = choices, choices + pairs
        self.rows: list[NDArray[np.float64]] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, entries: dict[int, float], low: float, high: float) -> None:
        row = np.zeros(self.width)
        row[list(entries)] = list(entries.values())
        self.rows.append(row)
        self.low.append(low)
        self.high.append(high)

    def link(self, pairs: list[tuple[int, int]]) -> None:
        """z = x y for binary x and y: z <= x, z <= y, z >= x + y - 1."""
        for number, (one, other) in enumerate(pairs, self.choices):
            self.add({one: 1.0, number: -1.0}, 0.0, np.inf)
            self.add({other: 1.0, number: -1.0}, 0.0, np.inf)
            self.add({one: 1.0, other: 1.0, number: -1.0}, -np.inf, 1.0)

    def build_matrix(self) -> tuple[NDArray[np.float64], list[float], list[float]]:
        return np.array(self.rows), self.low, self.high
