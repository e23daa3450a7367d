"""What an architecture leaves of each block of its parent, whatever the kinds of its units are."""

from collections.abc import Iterable

from latency_models.block_shape import BlockShape, Part
from latency_models.kinds import find_costs
from latency_models.shape import ModelShape
from search_spaces.architecture import Architecture
from search_spaces.kinds import AFTER_BLOCKS
from search_spaces.unit import Choice, Unit


def resolve_block(shape: ModelShape, layer: int, choices: Iterable[Choice]) -> BlockShape:
    """The block of this index with these choices made for its units."""
    block = shape.get_block(layer)
    for choice in choices:
        for cost, value in find_costs(choice.kind, choice.level):
            block = cost.resolve(shape, block, value)
    return block


def resolve_blocks(shape: ModelShape, architecture: Architecture) -> tuple[BlockShape, ...]:
    """The blocks of an architecture, in order; a dropped block is one without parts."""
    chosen: dict[int, list[Choice]] = {}
    for choice in architecture.choices:
        chosen.setdefault(choice.layer, []).append(choice)
    return tuple(
        resolve_block(shape, layer, chosen[layer]) if layer in chosen else shape.get_block(layer)
        for layer in range(architecture.depth)
    )


def resolve_head(shape: ModelShape, architecture: Architecture) -> Part | None:
    """The head of an architecture; None where the parent has none."""
    head = resolve_block(shape, AFTER_BLOCKS, architecture.list_block_choices(AFTER_BLOCKS)).head
    return head if head is not None and head.weights else None


def find_parts(shape: ModelShape, architecture: Architecture) -> list[tuple[Unit, Part]]:
    """Every part of the blocks that is left, in the order in which they run, with the unit that it is in the parent."""
    blocks = resolve_blocks(shape, architecture)
    return [(Unit(layer, kind), part) for layer, block in enumerate(blocks) for kind, part in block.parts.items()]
