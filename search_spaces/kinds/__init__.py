"""The kinds of units there are: every module of this package that has a `KIND` is one."""

from search_spaces.kinds.kind import AFTER_BLOCKS, Kind, UnitKind
from search_spaces.kinds.registry import discover
from search_spaces.level import KEEP

KINDS: dict[str, UnitKind] = {kind.name: kind for kind in discover(__path__, __name__, "KIND").values()}
PARTS = (Kind.ATTENTION, Kind.MLP)  # what a block is made of, in the order in which they run
KNOWN_PARTS = (Kind.ATTENTION, Kind.CROSS_ATTENTION, Kind.MLP)  # the same with what only some models have
BEHIND = tuple(kind for kind in Kind if not kind.in_blocks)  # what a model has once, behind its blocks
STRUCTURE = (*PARTS, Kind.BLOCK)  # what of the blocks of every model may be dropped


def _rank_kind(kind: UnitKind) -> tuple[int, bool, str]:
    """Kinds of one slot stand together, the one that drops first."""
    return tuple(Kind).index(kind.slot), kind.axis != KEEP, kind.name


UNIT_NAMES = tuple(
    kind.name for kind in sorted(KINDS.values(), key=_rank_kind) if kind.structural
)  # that `--units` takes
DEFAULT_UNITS = tuple(name for name in UNIT_NAMES if KINDS[name].default)

__all__ = [
    "AFTER_BLOCKS",
    "BEHIND",
    "DEFAULT_UNITS",
    "KINDS",
    "KNOWN_PARTS",
    "PARTS",
    "STRUCTURE",
    "UNIT_NAMES",
    "Kind",
    "UnitKind",
    "discover",
]
