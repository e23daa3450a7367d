"""Rules between choices: which take others along, which hide others, which exclude each other."""

from collections.abc import Iterable, Mapping

from search_spaces.kinds import KINDS, Kind
from search_spaces.level import DROP
from search_spaces.unit import Choice, Unit, find_kind, is_cumulative

SWALLOWS = {kind.slot: kind.swallows for kind in KINDS.values() if kind.swallows}


def get_parts(kind: Kind) -> tuple[Kind, ...]:
    """The kinds of the parts that are gone with a dropped unit of a kind: of a block both of its own, else the same."""
    return SWALLOWS.get(kind, (kind,))


def implies(one: Choice, other: Choice) -> bool:
    """Whether `one` takes `other` along: both of one cumulative kind, and `one` leaves no more anywhere."""
    if one.unit.kind is not other.unit.kind or len(one.level.axes) != 1 or len(other.level.axes) != 1:
        return False
    (axis, value), (other_axis, other_value) = one.level.axes[0], other.level.axes[0]
    return axis == other_axis and find_kind(one.unit.kind, axis).implies(one.layer, value, other.layer, other_value)


def is_below(one: Choice, other: Choice) -> bool:
    """Whether `one` leaves less of the same unit: dropped, or nowhere more on any axis and less on one."""
    if one.unit != other.unit or one.level == other.level:
        return False
    if one.level == DROP or other.level == DROP:
        return one.level == DROP
    mine, theirs = dict(one.level.axes), dict(other.level.axes)
    return theirs.keys() <= mine.keys() and all(mine[axis] <= value for axis, value in theirs.items())


def remove_hidden(choices: Iterable[Choice]) -> set[Choice]:
    """The choices that no other one hides.

    A dropped block hides what is chosen for its parts, a level the milder ones of the same unit, a cumulative choice
    those that it implies.
    """
    kept = set(choices)
    wholes = {(choice.layer, kind) for choice in kept for kind in SWALLOWS.get(choice.unit.kind, ())}
    if wholes:
        kept = {choice for choice in kept if (choice.layer, choice.unit.kind) not in wholes}
    if len({choice.unit for choice in kept}) < len(kept):
        kept = {one for one in kept if not any(is_below(other, one) for other in kept)}
    cumulative = {choice for choice in kept if is_cumulative(choice)}
    return {c for c in kept if c not in cumulative or not any(o != c and implies(o, c) for o in cumulative)}


def enforce_monotone(values: Mapping[Choice, float]) -> dict[Choice, float]:
    """The values with each at least as large as that of any choice it implies, so that sums are never negative."""
    return {
        choice: max([value, *(less for other, less in values.items() if implies(choice, other))])
        for choice, value in values.items()
    }


def list_cover_relations(choices: Iterable[Choice]) -> list[tuple[Choice, Choice]]:
    """Pairs (choice, implied) from which all implications follow: those with no other choice in between."""
    cumulative = sorted(choice for choice in choices if is_cumulative(choice))
    pairs = []
    for choice in cumulative:
        more = [other for other in cumulative if other != choice and implies(choice, other)]
        direct = [other for other in more if not any(implies(between, other) for between in more if between != other)]
        pairs += [(choice, other) for other in direct]
    return pairs


def list_exclusive_groups(choices: Iterable[Choice]) -> list[tuple[Choice, ...]]:
    """Groups of choices of which at most one may be made.

    The levels of one unit, but for cumulative ones, and a whole block together with the levels of each of its parts.
    """
    levels: dict[Unit, list[Choice]] = {}
    for choice in sorted(choices):
        if not is_cumulative(choice):
            levels.setdefault(choice.unit, []).append(choice)
    groups, grouped = [], set[Unit]()
    for unit, own in levels.items():
        for kind in SWALLOWS.get(unit.kind, ()):
            part = Unit(unit.layer, Kind(kind))
            if part in levels:
                groups.append((*own, *levels[part]))
                grouped.add(part)
    return groups + [tuple(own) for unit, own in levels.items() if unit not in grouped and len(own) > 1]
