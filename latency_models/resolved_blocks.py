"""What an architecture leaves of each block of its parent, whatever the kinds of its units are."""

from collections.abc import Iterable

from latency_models.block_shape import BlockShape, Part
from latency_models.kinds import find_costs
from latency_models.shape import ModelShape
from search_spaces.architecture import Architecture
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


def find_parts(shape: ModelShape, architecture: Architecture) -> list[tuple[Unit, Part]]:
    """Every part that is left, in the order in which they run, with the unit that it is in the parent."""
    blocks = resolve_blocks(shape, architecture)
    return [(Unit(layer, kind), part) for layer, block in enumerate(blocks) for kind, part in block.parts.items()]
