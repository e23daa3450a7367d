"""Where a pruned model can be adjusted: the projections that write to its residual stream, and who reads them next."""

from dataclasses import dataclass

from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.contribution import BlockAnatomy, Contribution, Layout
from pruning.kinds.linear_part import describe_stand_in
from search_spaces.architecture import Architecture
from search_spaces.kinds import Kind


@dataclass(frozen=True, order=True)
class Point:
    """A point of the residual stream: before the attention of a block, or before another of its parts.

    `layer` = depth and `kind` = attention is the stream that leaves the last block.

    Example:
        >>> site = find_sites(anatomy, Architecture.parent(anatomy.depth))[0]
        >>> site.target == Point(0, Kind.MLP)  # where the part after the first attention reads
        True
    """

    layer: int
    kind: Kind = Kind.ATTENTION


@dataclass(frozen=True)
class Site:
    """A kept part of a pruned model, or what stands in the place of one.

    Attributes:
        layer: of its block in the parent.
        kind: of the part.
        contribution: how it writes to the stream.
        target: where the next kept part reads the stream.
        closing: norms on the stream on the way there, as (layer, path within the block), in order; post-norm only.
        partner: in parallel blocks, the contribution that reaches the same point beside this one, where it is kept.
    """

    layer: int
    kind: Kind
    contribution: Contribution
    target: Point
    closing: tuple[tuple[int, str], ...]
    partner: Kind | None = None


def find_sites(anatomy: Anatomy, architecture: Architecture) -> tuple[Site, ...]:
    """The kept parts of an architecture, in the order in which they write to the stream."""
    return tuple(
        _describe(anatomy, architecture, layer, kind)
        for layer in range(anatomy.depth)
        for kind in anatomy.blocks[layer].parts
        if architecture.keeps(layer, kind)
    )


def find_kept_layers(anatomy: Anatomy, architecture: Architecture) -> list[int]:
    """The layers whose blocks are in the pruned model, in order."""
    merged = anatomy.merge_blocks(architecture)
    removed = set(merged.list_removed_blocks())
    return [layer for layer in range(anatomy.depth) if layer not in removed]


def _describe(anatomy: Anatomy, architecture: Architecture, layer: int, kind: Kind) -> Site:
    block = anatomy.blocks[layer]
    target, passed = _find_target(anatomy, architecture, layer, kind)
    closing = tuple(
        (at, path)
        for at, each in ((layer, kind), *passed)
        if (path := anatomy.blocks[at].get_contribution(each).closes) is not None
    )
    partner = _find_partner(block, architecture, kind)
    part = block.get_contribution(kind)
    contribution = part if architecture.runs(layer, kind) else describe_stand_in(part)
    return Site(layer, kind, contribution, target, closing, partner)


def _find_target(
    anatomy: Anatomy, architecture: Architecture, layer: int, kind: Kind
) -> tuple[Point, list[tuple[int, Kind]]]:
    """The next point that a kept part reads, and the dropped parts on the way whose blocks are left."""
    parallel = anatomy.layout is Layout.PARALLEL
    passed: list[tuple[int, Kind]] = []
    removed = set(architecture.list_removed_blocks())
    own = tuple(anatomy.blocks[layer].parts)
    begins = [] if parallel else [(layer, each) for each in own[own.index(kind) + 1 :]]
    later = [(at, each) for at in range(layer + 1, anatomy.depth) for each in anatomy.blocks[at].parts]
    for at, each in [*begins, *later]:
        if architecture.keeps(at, each):
            return Point(at, Kind.ATTENTION if parallel else each), passed
        if at not in removed:
            passed.append((at, each))
    return Point(anatomy.depth), passed


def _find_partner(block: BlockAnatomy, architecture: Architecture, kind: Kind) -> Kind | None:
    if block.layout is not Layout.PARALLEL:
        return None
    return next((each for each in block.parts if each is not kind and architecture.keeps(block.index, each)), None)
