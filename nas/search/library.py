"""The score library: the loss of every unit dropped alone, independent of device and budget."""

from collections.abc import Callable

from latency_models.marginal import marginal
from nas.search.problem import Problem
from search_spaces.steps import rising
from search_spaces.unit import Unit


def score_library(
    problem: Problem, items: int | None, on_unit: Callable[[int, int], None] = lambda done, of: None
) -> dict[Unit, float]:
    """What each unit of the space adds to the loss alone; what an earlier search found out is read, not computed.

    A token unit is scored with all that it implies, as the one stage of a schedule, and has what it adds to those: sums
    over what an architecture drops then are losses of schedules, and never negative.

    Deepest first: each candidate then resumes from the parent's states, of which later ones need fewer.

    Args:
        items: validation items to score on; None for all.
        on_unit: told (done, all) after every unit.
    """
    space = problem.space
    units, losses = sorted(space.units, key=lambda unit: -unit.layer), {}
    problem.evaluate(space.start, items)  # its states are the prefix of all of them
    before = 0.0 if space.fixed is None else problem.evaluate(space.start, items).loss
    without = {unit: space.canonical(space.start.drop(unit)) for unit in units}
    problem.ahead([(architecture, items) for architecture in without.values()])
    for done, unit in enumerate(units, 1):
        losses[unit] = problem.evaluate(without[unit], items).loss - before
        on_unit(done, len(units))
    return marginal(rising({unit: losses[unit] for unit in space.units}))
