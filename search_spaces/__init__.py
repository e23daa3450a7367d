"""Pure data: units and their levels, architectures, and the spaces a search explores."""

from search_spaces.architecture import Architecture, drop_from_parent
from search_spaces.encoding import Encoding
from search_spaces.kinds import KINDS, KNOWN_PARTS, PARTS, STRUCTURE, Kind, UnitKind
from search_spaces.level import DROP, Level
from search_spaces.schedule import Positions, Reducer, Reduction, Schedule, Scorer, Source, Stage
from search_spaces.space import Space
from search_spaces.unit import Choice, Unit

__all__ = [
    "DROP",
    "KINDS",
    "KNOWN_PARTS",
    "PARTS",
    "STRUCTURE",
    "Architecture",
    "Choice",
    "Encoding",
    "Kind",
    "Level",
    "Positions",
    "Reducer",
    "Reduction",
    "Schedule",
    "Scorer",
    "Source",
    "Space",
    "Stage",
    "Unit",
    "UnitKind",
    "drop_from_parent",
]
