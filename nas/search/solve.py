"""The exact solve: the units whose summed loss is least and whose summed milliseconds meet the budget.

A mixed-integer program (HiGHS through SciPy). Summed losses are wrong for many drops together, so its solutions
seed the study and do not decide.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.search.limit import Limit
from nas.search.savings import Savings
from search_spaces.architecture import Architecture
from search_spaces.space import Space, empty
from search_spaces.steps import preceding
from search_spaces.unit import Kind, Unit

Pair = tuple[Unit, Unit]

TIME_LIMIT_S = 2.0  # what has been found by then is taken
_GAP_BITS = 2  # each solution differs from the earlier ones in at least so many units


def solve(
    space: Space,
    loss: dict[Unit, float],
    saves_ms: dict[Unit, float] | Savings,
    needed_ms: float,
    solutions: int = 1,
    pairs: dict[Pair, float] | None = None,
    limits: Sequence[Limit] = (),
) -> list[Architecture]:
    """Diverse best architectures that save at least `needed_ms`, best first; fewer if there are not so many.

    Args:
        space: its units are the binary choices; a block excludes its attention and MLP.
        loss: loss of each unit dropped alone; of a token unit, what it adds to those that it implies.
        saves_ms: what each saves, likewise; `Savings` also has what two save less together.
        needed_ms: what must be saved.
        solutions: how many to look for, each at a Hamming distance of at least two from the others.
        pairs: what dropping both of two units adds to the sum (or takes from it).
        limits: a row each.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    units, more = space.units, pairs or {}
    savings = saves_ms if isinstance(saves_ms, Savings) else Savings(saves_ms, {})
    together = sorted(more.keys() | savings.overlap.keys())
    cost = np.array([_cost(unit, loss[unit]) for unit in units] + [more.get(pair, 0.0) for pair in together])
    rows = _rows(units, savings, needed_ms, together, limits)
    whole = np.array([1] * len(units) + [0] * len(together))  # a product of two choices is 0 or 1 by its rows
    found: list[Architecture] = []
    for _ in range(4 * solutions):
        if len(found) == solutions:
            break
        answer = milp(
            cost, constraints=LinearConstraint(*rows.matrix()), integrality=whole, bounds=Bounds(0, 1),
            options={"time_limit": TIME_LIMIT_S},
        )  # fmt: skip
        if answer.x is None:
            break
        chosen = answer.x[: len(units)] > 0.5
        architecture = space.decode({unit for unit, drop in zip(units, chosen, strict=True) if drop})
        if not empty(architecture):
            found.append(architecture)
        # No-good cut: sum over chosen of (1 - x) + sum over others of x >= the gap.
        cut = {place: -1.0 if drop else 1.0 for place, drop in enumerate(chosen)}
        rows.add(cut, (_GAP_BITS if not empty(architecture) else 1) - float(chosen.sum()), np.inf)
    return found


def _cost(unit: Unit, loss: float) -> float:
    """A step may cost less than nothing beside those that it implies, which it takes along."""
    return (loss if unit.kind is Kind.TOKENS else max(loss, 0.0)) + 1e-9


def _rows(
    units: tuple[Unit, ...], savings: Savings, needed_ms: float, together: list[Pair], limits: Sequence[Limit]
) -> "_Rows":
    """What every solution keeps to."""
    rows, place = _Rows(len(units), len(together)), {unit: place for place, unit in enumerate(units)}
    overlap = {len(units) + at: -savings.overlap[pair] for at, pair in enumerate(together) if pair in savings.overlap}
    rows.add({place[unit]: savings.alone[unit] for unit in units} | overlap, needed_ms, np.inf)
    for limit in limits:
        rows.add({place[unit]: limit.saved(unit) for unit in units}, limit.excess, np.inf)
    for exclusive in _exclusive(units):
        rows.add(dict.fromkeys(exclusive, 1.0), -np.inf, 1.0)
    for step, implied in preceding(units):
        rows.add({place[step]: -1.0, place[implied]: 1.0}, 0.0, np.inf)
    rows.link([(place[one], place[other]) for one, other in together])
    return rows


class _Rows:
    """Linear constraints over the units' choices and the products of pairs."""

    def __init__(self, units: int, pairs: int) -> None:
        self.units, self.width = units, units + pairs
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
        for number, (one, other) in enumerate(pairs, self.units):
            self.add({one: 1.0, number: -1.0}, 0.0, np.inf)
            self.add({other: 1.0, number: -1.0}, 0.0, np.inf)
            self.add({one: 1.0, other: 1.0, number: -1.0}, -np.inf, 1.0)

    def matrix(self) -> tuple[NDArray[np.float64], list[float], list[float]]:
        return np.array(self.rows), self.low, self.high


def _exclusive(units: tuple[Unit, ...]) -> list[tuple[int, int]]:
    """Places that cannot both be chosen: a block and its attention or its MLP."""
    return [
        (place, units.index(part))
        for place, unit in enumerate(units)
        if unit.kind is Kind.BLOCK
        for part in (Unit(unit.layer, Kind.ATTENTION), Unit(unit.layer, Kind.MLP))
        if part in units
    ]
