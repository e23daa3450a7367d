"""Levels end on the target's steps: what is no faster than a milder level of the same unit only loses quality."""

from collections.abc import Iterable
from dataclasses import replace

from latency_models.model import LatencyModel
from search_spaces.level import DROP
from search_spaces.space import Space
from search_spaces.unit import Choice, Unit, find_kind, is_cumulative

FASTER = 0.01  # of what dropping the unit would save, a level has to save beyond the milder one


def restrict_to_steps(space: Space, latency: LatencyModel) -> Space:
    """The space with those shares of a unit only that the latency model expects to be faster than any larger one.

    Shares of heads are compared with shares of heads, windows with windows.

    Dropping a unit, and levels that are no shares (formats of weights, stand-ins, token schedules), stay.
    """
    shares: dict[tuple[Unit, tuple[str, ...]], list[Choice]] = {}
    for choice in space.choices:
        if _is_share(choice):
            shares.setdefault((choice.unit, tuple(axis for axis, _ in choice.level.axes)), []).append(choice)
    slow = {choice for own in shares.values() for choice in _list_slow(own, latency)}
    return replace(space, choices=tuple(choice for choice in space.choices if choice not in slow))


def _is_share(choice: Choice) -> bool:
    kinds = [find_kind(choice.kind, axis) for axis, _ in choice.level.axes]
    return (
        choice.level != DROP and not is_cumulative(choice) and all(each.graded and not each.stands_in for each in kinds)
    )


def _list_slow(own: Iterable[Choice], latency: LatencyModel) -> list[Choice]:
    """The levels of a unit on one axis that save no more than a milder one."""
    slow, saved = [], 0.0
    needed = FASTER * latency.predict_unit_ms(next(iter(own)).unit)
    for choice in sorted(own, key=lambda each: each.level, reverse=True):
        ms = latency.predict_unit_ms(choice)
        if ms - saved <= needed:
            slow.append(choice)
        else:
            saved = ms
    return slow
