"""The exact solve: the units whose summed loss is least and whose summed milliseconds meet the budget.

A mixed-integer program (HiGHS through SciPy). Summed losses are wrong for many drops together, so its solutions
seed the study and do not decide.
"""

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture
from search_spaces.space import Space, empty
from search_spaces.unit import Kind, Unit

_GAP_BITS = 2  # each solution differs from the earlier ones in at least so many units


def solve(
    space: Space, loss: dict[Unit, float], saves_ms: dict[Unit, float], needed_ms: float, solutions: int = 1
) -> list[Architecture]:
    """Diverse best architectures that save at least `needed_ms`, best first; fewer if there are not so many.

    Args:
        space: its units are the binary choices; a block excludes its attention and MLP.
        loss: loss of each unit dropped alone.
        saves_ms: what each saves.
        needed_ms: what must be saved.
        solutions: how many to look for, each at a Hamming distance of at least two from the others.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    units = space.units
    cost = np.array([max(loss[unit], 0.0) + 1e-9 for unit in units])
    rows = [np.array([saves_ms[unit] for unit in units])]
    low, high = [needed_ms], [np.inf]
    for exclusive in _exclusive(units):
        rows.append(exclusive)
        low.append(-np.inf)
        high.append(1.0)
    found: list[Architecture] = []
    for _ in range(4 * solutions):
        if len(found) == solutions:
            break
        answer = milp(
            cost, constraints=LinearConstraint(np.array(rows), low, high),
            integrality=np.ones(len(units)), bounds=Bounds(0, 1), options={"time_limit": 5.0},
        )  # fmt: skip
        if answer.x is None:
            break
        chosen = answer.x > 0.5
        architecture = space.decode({unit for unit, drop in zip(units, chosen, strict=True) if drop})
        if not empty(architecture):
            found.append(architecture)
        # No-good cut: sum over chosen of (1 - x) + sum over others of x >= the gap.
        rows.append(np.where(chosen, -1.0, 1.0))
        low.append((_GAP_BITS if not empty(architecture) else 1) - float(chosen.sum()))
        high.append(np.inf)
    return found


def _exclusive(units: tuple[Unit, ...]) -> list[NDArray[np.float64]]:
    """Rows that forbid a block together with its attention or its MLP."""
    rows = []
    for unit in units:
        if unit.kind is not Kind.BLOCK:
            continue
        for kind in (Kind.ATTENTION, Kind.MLP):
            part = Unit(unit.layer, kind)
            if part in units:
                rows.append(np.array([1.0 if other in (unit, part) else 0.0 for other in units]))
    return rows
