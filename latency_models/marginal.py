"""What each unit adds to a set of them: token units imply each other, so that their savings do not just add up."""

from collections.abc import Mapping

from search_spaces.architecture import Architecture
from search_spaces.unit import Kind, Unit


def marginal(alone: Mapping[Unit, float]) -> dict[Unit, float]:
    """Values of units dropped alone as values that may be summed over sets closed under implication.

    Dropping a token unit drops all that it implies (`Architecture.drops`), so its value alone is the sum of what they
    add: Möbius inversion over that order. On a full grid of blocks and ratios this is the second difference over block
    and ratio, and where blocks save independently of each other the sum is right for schedules of many stages as well,
    but for what every stage costs by itself, which is counted once. Parts of the parent keep their value.

    Args:
        alone: what dropping each from the parent saves (or costs), in any unit.

    Returns:
        The same keys; a token unit's value may be negative where an implied one saves more alone.
    """
    found = {unit: value for unit, value in alone.items() if unit.kind is not Kind.TOKENS}
    implied = {unit: _implied_by(unit, alone) for unit in alone if unit.kind is Kind.TOKENS}
    for unit in sorted(implied, key=lambda each: len(implied[each])):
        found[unit] = alone[unit] - sum(found[other] for other in implied[unit])
    return {unit: found[unit] for unit in alone}


def _implied_by(unit: Unit, among: Mapping[Unit, float]) -> list[Unit]:
    """The other token units that go with this one."""
    depth = 1 + max(other.layer for other in among)
    whole = Architecture(depth, frozenset({unit}))
    return [other for other in among if other.kind is Kind.TOKENS and other != unit and whole.drops(other)]
