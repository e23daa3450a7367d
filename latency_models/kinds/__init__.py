"""What each kind of unit costs: every module of this package that has a `COST` says it for the kind of its name."""

from functools import cache

from latency_models.kinds.cost import Cost
from search_spaces.kinds import Kind, discover
from search_spaces.level import Level
from search_spaces.unit import find_kind

COSTS: dict[str, Cost] = discover(__path__, __name__, "COST")


@cache
def find_costs(kind: Kind, level: Level) -> tuple[tuple[Cost, int], ...]:
    """For each axis of a level of units of `kind`: what levels on that axis cost, and the value on it.

    Raises:
        ArchitectureError: such units have no such axis.
    """
    return tuple((COSTS[find_kind(kind, axis).name], value) for axis, value in level.axes)


__all__ = ["COSTS", "Cost", "find_costs"]
