"""Local search around the best of a budget: what single changes of it add, and which of them together may be better.

The way down never gives a unit back, and the sampler tries what the surrogate expects to be best. Around the best both
are replaced by measurement: the most promising changes of single levels are scored on few items, some that give back
what was dropped and some that save milliseconds. What they add is summed; sums of two or three changes miss only what
these do to each other. The best of those that meet the budget are then judged like any other candidate.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nas.search.problem import Problem
from nas.search.surrogate import Surrogate
from search_spaces.architecture import Architecture
from search_spaces.level import Level
from search_spaces.rules import SWALLOWS
from search_spaces.space import Space, is_empty
from search_spaces.unit import Choice, Unit, is_structural

CHANGED = 3  # units that one proposal changes at most
SAVING, COSTING = 8, 16  # changes that are scored: of those that save milliseconds, and of those that do not


@dataclass(frozen=True)
class Change:
    """Another level of one unit, and what that alone adds to the loss and to the milliseconds."""

    unit: Unit
    level: Level
    loss: float
    ms: float


def propose_combined_changes(
    problem: Problem, architecture: Architecture, surrogate: Surrogate, count: int
) -> list[Architecture]:
    """The architectures within the budget that differ in two or three units and whose changes add least to the loss.

    Args:
        architecture: the best that is known.
        surrogate: says which single changes are worth scoring.
        count: at most so many, best first.
    """
    changes = measure_changes(problem, architecture, surrogate)
    slack_ms = problem.budget_ms - problem.predict_ms(architecture)
    proposed: dict[Architecture, None] = {}
    for combined in _list_combinations(changes, slack_ms):
        changed = _apply(problem.space, architecture, {each.unit: each.level for each in combined})
        if not is_empty(changed) and problem.is_feasible(changed):
            proposed.setdefault(changed)
        if len(proposed) == count:
            break
    return list(proposed)


def measure_changes(problem: Problem, architecture: Architecture, surrogate: Surrogate) -> list[Change]:
    """Other levels of single parts, scored on the first rung's items against the architecture itself."""
    changed = _select_promising(problem, architecture, surrogate)
    problem.prefetch([(each, problem.rungs[0]) for each in (architecture, *changed.values())])
    loss, ms = problem.evaluate(architecture, problem.rungs[0]).loss, problem.predict_ms(architecture)
    return [
        Change(unit, level, problem.evaluate(each, problem.rungs[0]).loss - loss, problem.predict_ms(each) - ms)
        for (unit, level), each in changed.items()
    ]


def _select_promising(
    problem: Problem, architecture: Architecture, surrogate: Surrogate
) -> dict[tuple[Unit, Level], Architecture]:
    """The changes that the surrogate expects to save most for what they add to the loss, and to give back most loss."""
    changed, ms = dict(_list_changed(problem.space, architecture)), problem.predict_ms(architecture)
    added_ms = {key: problem.predict_ms(each) - ms for key, each in changed.items()}
    here, *losses = surrogate.predict([architecture, *changed.values()])
    added = {key: float(loss - here) for key, loss in zip(changed, losses, strict=True)}
    saving = sorted((key for key in changed if added_ms[key] < 0), key=lambda key: added[key] / -added_ms[key])
    costing = sorted((key for key in changed if added_ms[key] >= 0), key=lambda key: added[key])
    chosen = {*saving[:SAVING], *costing[:COSTING]}
    return {key: each for key, each in changed.items() if key in chosen}


def _list_changed(space: Space, architecture: Architecture) -> Iterator[tuple[tuple[Unit, Level], Architecture]]:
    """Each other level of one part, with the architecture that it leads to; the deepest first."""
    for unit, levels in sorted(_list_parts(space).items(), reverse=True):
        now = architecture.get_level(unit)
        for level in levels:
            changed = _apply(space, architecture, {unit: level})
            if level != now and not is_empty(changed):
                yield (unit, level), changed


def _list_parts(space: Space) -> dict[Unit, tuple[Level, ...]]:
    """The units of the structure; a block that is the same model as its parts dropped is left to these."""
    structural = {unit: levels for unit, levels in space.levels.items() if is_structural(unit.choose(levels[-1]))}

    def is_left_to_parts(unit: Unit) -> bool:
        parts = (Unit(unit.layer, kind) for kind in SWALLOWS.get(unit.kind, ()) if kind in space.parts)
        return unit.kind in SWALLOWS and space.merges_blocks and all(part in structural for part in parts)

    return {unit: levels for unit, levels in structural.items() if not is_left_to_parts(unit)}


def _list_combinations(changes: list[Change], slack_ms: float) -> list[tuple[Change, ...]]:
    """Combinations of changes of different units that fit, least added loss first; at least one of them restores."""
    combined = (
        each
        for size in range(2, CHANGED + 1)
        for each in itertools.combinations(changes, size)
        if len({change.unit for change in each}) == size and sum(change.ms for change in each) <= slack_ms
    )
    return sorted(
        (each for each in combined if any(c.loss < 0 for c in each)), key=lambda each: sum(c.loss for c in each)
    )


def _apply(space: Space, architecture: Architecture, levels: Mapping[Unit, Level]) -> Architecture:
    """The architecture with other levels; a removed block of which a part returns keeps the other part dropped."""
    returning = {unit.layer for unit in levels if unit.kind not in SWALLOWS}
    choices = {part for choice in architecture.choices for part in _split(space, choice, returning)}
    kept = {choice for choice in choices if choice.unit not in levels}
    return space.decode(kept | {unit.choose(level) for unit, level in levels.items() if level.axes})


def _split(space: Space, choice: Choice, layers: set[int]) -> set[Choice]:
    """A removed block in one of these layers as its parts, dropped."""
    kinds = SWALLOWS.get(choice.unit.kind, ())
    if not kinds or choice.unit.layer not in layers:
        return {choice}
    return {Unit(choice.layer, kind).dropped for kind in kinds if kind in space.parts}
