"""The score library: the loss of every unit dropped alone, independent of device and budget."""

from collections.abc import Callable

from nas.search.problem import Problem
from search_spaces.unit import Unit


def score_library(
    problem: Problem, items: int | None, on_unit: Callable[[int, int], None] = lambda done, of: None
) -> dict[Unit, float]:
    """Loss of each unit of the space dropped alone; what an earlier search found out is read, not computed.

    Deepest first: each candidate then resumes from the parent's states, of which later ones need fewer.

    Args:
        items: validation items to score on; None for all.
        on_unit: told (done, all) after every unit.
    """
    units, losses = sorted(problem.space.units, key=lambda unit: -unit.layer), {}
    problem.evaluate(problem.space.parent, items)  # its states are the prefix of all of them
    for done, unit in enumerate(units, 1):
        losses[unit] = problem.evaluate(problem.space.parent.drop(unit), items).loss
        on_unit(done, len(units))
    return {unit: losses[unit] for unit in problem.space.units}
