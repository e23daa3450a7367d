"""Pure data: units, architectures and the spaces a search explores."""

from search_spaces.architecture import Architecture
from search_spaces.space import Space
from search_spaces.unit import Kind, Unit

__all__ = ["Architecture", "Kind", "Space", "Unit"]
