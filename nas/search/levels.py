"""Architectures as the parameters of a study: one for each unit of the space, and its levels in words."""

from optuna.distributions import CategoricalDistribution

from search_spaces.architecture import Architecture
from search_spaces.level import Level
from search_spaces.space import Space
from search_spaces.unit import Unit, describe_level, is_structural


def list_distributions(space: Space) -> dict[str, CategoricalDistribution]:
    """The levels of every unit; the first of each is the parent's."""
    return {str(unit): CategoricalDistribution(list(_name_levels(unit, levels))) for unit, levels in _list_units(space)}


def encode(space: Space, architecture: Architecture) -> dict[str, str]:
    """The level of every unit; of the tokens, the share that a block works on where a stage may begin."""
    encoded = {}
    for unit, levels in _list_units(space):
        words = _name_levels(unit, levels)
        encoded[str(unit)] = next(word for word in reversed(words) if _has(architecture, unit, words[word]))
    return encoded


def _has(architecture: Architecture, unit: Unit, level: Level) -> bool:
    return not level.axes or architecture.drops(unit.choose(level))


def _list_units(space: Space) -> list[tuple[Unit, tuple[Level, ...]]]:
    """Parts first; the levels of each from the parent's on to the one that leaves least."""
    units = [(unit, (levels[0], *sorted(levels[1:], reverse=True))) for unit, levels in space.levels.items()]
    return sorted(units, key=lambda pair: not is_structural(pair[0].choose(pair[1][-1])))


def _name_levels(unit: Unit, levels: tuple[Level, ...]) -> dict[str, Level]:
    parents = "keep" if is_structural(unit.choose(levels[-1])) else "1"
    return {parents: levels[0], **{describe_level(unit.kind, level): level for level in levels[1:]}}
