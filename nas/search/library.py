"""The score library: the loss of every choice made alone, independent of device and budget."""

from collections.abc import Callable

from latency_models.marginal import compute_marginal_values
from nas.search.level_interpolation import interpolate_losses, split_levels
from nas.search.problem import Problem
from search_spaces.architecture import Architecture
from search_spaces.rules import enforce_monotone
from search_spaces.space import Space
from search_spaces.unit import Choice


def score_library(
    problem: Problem, items: int | None, on_unit: Callable[[int, int], None] = lambda done, of: None
) -> dict[Choice, float]:
    """What each choice of the space adds to the loss alone; what an earlier search found out is read, not computed.

    A cumulative choice is scored with all that it implies, as the one stage of a schedule, and has what it adds to
    those: sums over what an architecture chooses then are losses of schedules, and never negative.

    Of a unit with many levels a few are scored, and those between them interpolated.

    Deepest first: each candidate then resumes from the parent's states, of which later ones need fewer.

    Args:
        items: validation items to score on; None for all.
        on_unit: told (done, all) after every choice.
    """
    space = problem.space
    measured, between = split_levels(space.choices)
    choices = sorted(sorted(measured), key=lambda choice: -choice.layer)
    losses = dict[Choice, float]()
    problem.evaluate(space.start, items)  # its states are the prefix of all of them
    before = 0.0 if space.fixed is None else problem.evaluate(space.start, items).loss
    alone = {choice: _drop_alone(space, choice) for choice in choices}
    problem.prefetch([(architecture, items) for architecture in alone.values()])
    for done, choice in enumerate(choices, 1):
        losses[choice] = problem.evaluate(alone[choice], items).loss - before
        on_unit(done, len(choices))
    losses |= interpolate_losses(
        losses, between, lambda c: problem.evaluate(_drop_alone(space, c), items).loss - before
    )
    return compute_marginal_values(enforce_monotone({choice: losses[choice] for choice in space.choices}))


def _drop_alone(space: Space, choice: Choice) -> Architecture:
    return space.make_canonical(space.start.drop(choice))
