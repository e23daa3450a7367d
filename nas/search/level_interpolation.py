"""Losses of levels between measured ones: a unit with many levels need not be evaluated at each.

To second order a loss grows with the square of the disturbance, and the disturbance about in proportion to what is
taken away; so the square root of the loss is interpolated linearly along the axis.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping

from search_spaces.level import DROP
from search_spaces.unit import Choice, Unit, find_kind, is_cumulative

MEASURED = 3  # levels of a unit: the mildest, one in the middle, and the one that leaves least


def split_levels(choices: Iterable[Choice]) -> tuple[list[Choice], list[Choice]]:
    """The choices to measure, and those between them that can be interpolated.

    A unit can be interpolated whose levels lie on one axis of shares, on which dropping it is 0; of all others every
    level is measured, as are steps of token reduction and formats of weights.
    """
    measured, between = list[Choice](), list[Choice]()
    for own in _group_by_unit(choices).values():
        if (
            len(own) <= MEASURED
            or len({axis for each in own for axis in _list_axes(each)}) != 1
            or is_cumulative(own[0])
            or not all(find_kind(each.kind, axis).graded for each in own for axis in _list_axes(each))
        ):
            measured += own
            continue
        kept = {round(position * (len(own) - 1) / (MEASURED - 1)) for position in range(MEASURED)}
        measured += [own[position] for position in sorted(kept)]
        between += [choice for position, choice in enumerate(own) if position not in kept]
    return measured, between


def interpolate_losses(
    losses: Mapping[Choice, float], between: Iterable[Choice], measure: Callable[[Choice], float]
) -> dict[Choice, float]:
    """Losses of the levels between measured ones.

    Args:
        losses: of the measured levels.
        between: the others.
        measure: gives the loss of a level whose unit's measured levels do not lose more the less is left.
    """
    known = _group_by_unit(losses)
    interpolated = {}
    for choice in between:
        own = known[choice.unit]
        rising = all(losses[one] <= losses[other] for one, other in itertools.pairwise(own))
        interpolated[choice] = _interpolate(choice, own, losses) if rising else measure(choice)
    return interpolated


def _interpolate(choice: Choice, own: list[Choice], losses: Mapping[Choice, float]) -> float:
    at = _get_remaining(choice)
    milder = min((each for each in own if _get_remaining(each) > at), key=_get_remaining)
    stronger = max((each for each in own if _get_remaining(each) < at), key=_get_remaining)
    share = (_get_remaining(milder) - at) / (_get_remaining(milder) - _get_remaining(stronger))
    low, high = (math.sqrt(max(losses[each], 0.0)) for each in (milder, stronger))
    return (low + share * (high - low)) ** 2


def _group_by_unit(choices: Iterable[Choice]) -> dict[Unit, list[Choice]]:
    """The choices of each unit, the mildest first."""
    groups: dict[Unit, list[Choice]] = {}
    for choice in sorted(choices, key=lambda each: (each.unit, -_get_remaining(each))):
        groups.setdefault(choice.unit, []).append(choice)
    return groups


def _list_axes(choice: Choice) -> tuple[str, ...]:
    return () if choice.level == DROP else tuple(axis for axis, _ in choice.level.axes)


def _get_remaining(choice: Choice) -> int:
    """What a level on one axis leaves; nothing, of a dropped unit."""
    return 0 if choice.level == DROP else choice.level.axes[0][1]
