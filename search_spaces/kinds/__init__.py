"""The kinds of units there are: every module of this package that has a `KIND` is one."""

from search_spaces.kinds.kind import Kind, UnitKind
from search_spaces.kinds.registry import discover

KINDS: dict[str, UnitKind] = {kind.name: kind for kind in discover(__path__, __name__, "KIND").values()}
PARTS = (Kind.ATTENTION, Kind.MLP)  # what a block is made of, in the order in which they run
STRUCTURE = tuple(kind for kind in Kind if all(k.structural for k in KINDS.values() if k.slot is kind))

__all__ = ["KINDS", "PARTS", "STRUCTURE", "Kind", "UnitKind", "discover"]
