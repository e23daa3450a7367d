"""Pure data: units, architectures and the spaces a search explores."""

from search_spaces.architecture import Architecture
from search_spaces.space import Space
from search_spaces.tokens import Positions, Reducer, Reduction, Schedule, Scorer, Source, Stage
from search_spaces.unit import STRUCTURE, Kind, Unit

__all__ = [
    "STRUCTURE",
    "Architecture",
    "Kind",
    "Positions",
    "Reducer",
    "Reduction",
    "Schedule",
    "Scorer",
    "Source",
    "Space",
    "Stage",
    "Unit",
]
