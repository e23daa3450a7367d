"""What each kind of unit makes of modules: every module of this package with a `SURGERY`, for the kind of its name."""

from torch import nn

from pruning.anatomy.contribution import BlockAnatomy
from pruning.anatomy.probe import Call
from pruning.inference.widening import is_widened, widen
from pruning.kinds.surgery import Surgery
from search_spaces.errors import UnreadableModel
from search_spaces.kinds import AFTER_BLOCKS, KINDS, KNOWN_PARTS, Kind, discover
from search_spaces.level import Level
from search_spaces.unit import Choice, Unit, list_kinds

SURGERIES: dict[str, Surgery] = discover(__path__, __name__, "SURGERY")


def find_savings(call: Call, anatomy: BlockAnatomy) -> dict[Choice, int]:
    """Everything that a search may choose for a block or a head, and how many parameters are gone with each alone.

    Args:
        call: of the block with random weights in float32 on a tiny input.
        anatomy: of the block.
    """
    return {
        Unit(anatomy.index, KINDS[name].slot).choose(level): surgery.count_saved(call.module, anatomy, level)
        for name, surgery in SURGERIES.items()
        if _has_slot(anatomy, KINDS[name].slot)
        for level in _find_levels(surgery, call, anatomy)
    }


def _find_levels(surgery: Surgery, call: Call, anatomy: BlockAnatomy) -> tuple[Level, ...]:
    """The levels of a kind; none where the block does not run when one is tried, as a family may forbid what it likes.

    Faults of the code that tries it are not hidden.
    """
    try:
        return surgery.find_levels(call, anatomy)
    except UnreadableModel:
        return ()


def _has_slot(anatomy: BlockAnatomy, slot: Kind) -> bool:
    """Whether there is what levels of a kind are chosen for: a part that the block has, or the block itself."""
    if anatomy.unparted:
        return slot is Kind.BLOCK
    behind = anatomy.index >= AFTER_BLOCKS
    return slot in anatomy.parts if slot in KNOWN_PARTS or behind else slot.in_blocks


def build_modules(block: nn.Module, anatomy: BlockAnatomy, chosen: tuple[Choice, ...]) -> dict[str, nn.Module]:
    """The modules that stand in a block in place of the parent's, by path within it, what holds others before these.

    Args:
        block: the parent's; it stays as it is.
        anatomy: of the block.
        chosen: everything that is chosen for the block.
    """
    modules: dict[str, nn.Module] = {}
    for choice in chosen:
        for name in sorted(list_kinds(choice)):
            modules |= SURGERIES[name].build_modules(block, anatomy, choice.level, chosen)
    outermost_first = {path: modules[path] for path in sorted(modules, key=lambda path: path.count("."))}
    if is_widened(block):
        return {path: widen(module) for path, module in outermost_first.items()}
    return outermost_first


__all__ = ["SURGERIES", "Surgery", "build_modules", "find_savings"]
