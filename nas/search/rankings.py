"""One-shot baselines: drop in the order of a ranking until the budget is met."""

from collections.abc import Callable, Iterable

from search_spaces.architecture import Architecture
from search_spaces.space import Space, empty
from search_spaces.unit import Unit


def drop_in_order(
    space: Space, ranking: Iterable[Unit], feasible: Callable[[Architecture], bool]
) -> Architecture | None:
    """The first architecture along the ranking that is feasible; None if none is. As published: no add-back."""
    dropped: set[Unit] = set()
    for unit in ranking:
        dropped.add(unit)
        architecture = space.decode(dropped)
        if empty(architecture):
            return None
        if feasible(architecture):
            return architecture
    return None


def add_back(
    space: Space, architecture: Architecture, ranking: Iterable[Unit], feasible: Callable[[Architecture], bool]
) -> Architecture:
    """Restore what still fits, least redundant first: a one-shot ranking overshoots with its last unit."""
    dropped = {unit for unit in ranking if architecture.drops(unit)}
    for unit in reversed([unit for unit in ranking if unit in dropped]):
        candidate = space.decode(dropped - {unit})
        if feasible(candidate):
            dropped.discard(unit)
    return space.decode(dropped)
