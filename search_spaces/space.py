"""A space: the architectures a search may propose."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from search_spaces.architecture import Architecture
from search_spaces.errors import ArchitectureError
from search_spaces.tokens import Reduction, Schedule, permille_of
from search_spaces.unit import Kind, Unit


@dataclass(frozen=True)
class Space:
    """Architectures of a parent with `depth` blocks that drop any subset of `units` but not everything.

    `merges_blocks` says that dropping both units of a block is the same model as removing the block (every
    layout but post-norm, where the norms of dropped units stay); architectures are then written with the
    block removed, so that equal models have equal digests. Token units among `units` are its steps of token
    reduction, and `reduction` is how tokens are chosen in all of it; or `fixed` is a schedule that all of it has.
    """

    depth: int
    units: tuple[Unit, ...]
    merges_blocks: bool = True
    reduction: Reduction | None = None
    fixed: Schedule | None = None

    def __post_init__(self) -> None:
        if not self.units:
            raise ArchitectureError("a space needs at least one removable unit; name some with --units")
        object.__setattr__(self, "units", tuple(sorted(set(self.units))))
        Architecture(self.depth, frozenset(self.units))  # refuses units out of range
        if self.fixed is not None and self.structure != self.units:
            raise ArchitectureError(f"schedule {self.fixed} is fixed; a space has that or token units, leave one out")

    @property
    def parent(self) -> Architecture:
        """The architecture that keeps everything."""
        return Architecture.parent(self.depth)

    @property
    def start(self) -> Architecture:
        """Where a search begins: the parent, with the schedule that is fixed."""
        return self.decode(frozenset())

    def canonical(self, architecture: Architecture) -> Architecture:
        """The one way this space writes an architecture."""
        chosen = Architecture(architecture.depth, architecture.dropped, self.reduction or architecture.reduction)
        chosen = chosen if self.fixed is None else chosen.with_tokens(self.fixed)
        return chosen.merge_blocks() if self.merges_blocks else chosen

    def decode(self, dropped: set[Unit] | frozenset[Unit]) -> Architecture:
        """The canonical architecture that drops these units."""
        return self.canonical(Architecture(self.depth, frozenset(dropped)))

    def encode(self, architecture: Architecture) -> dict[str, str]:
        """Unit name to `keep` or `drop`, one entry per removable unit (a study's parameters).

        A removed block counts as its attention and MLP dropped where the block itself is no unit of the space.
        """
        return {str(unit): "drop" if architecture.drops(unit) else "keep" for unit in self.units}

    def contains(self, architecture: Architecture) -> bool:
        """Whether a search in this space may propose `architecture`."""
        if architecture.depth != self.depth or empty(architecture):
            return False
        if architecture.reduction is not None and self.reduction not in (None, architecture.reduction):
            return False
        if self.fixed is not None and architecture != architecture.with_tokens(self.fixed):
            return False
        available, asked = set(self.units), architecture if self.fixed is None else architecture.structure
        return all(unit in available or self._as_both(unit) <= available for unit in asked.dropped)

    def _as_both(self, unit: Unit) -> set[Unit]:
        if unit.kind is not Kind.BLOCK or not self.merges_blocks:
            return {unit}
        return {Unit(unit.layer, Kind.ATTENTION), Unit(unit.layer, Kind.MLP)}

    @property
    def structure(self) -> tuple[Unit, ...]:
        """Its units that are parts of the parent."""
        return tuple(unit for unit in self.units if unit.kind is not Kind.TOKENS)

    def with_tokens(self, reduction: Reduction, blocks: Iterable[int], ratios: Iterable[float]) -> "Space":
        """This space with a token stage allowed before each of these blocks at each of these ratios."""
        ratios = sorted(ratios)
        steps = (Unit(block, Kind.TOKENS, permille_of(ratio)) for block in blocks for ratio in ratios)
        return replace(self, units=(*self.structure, *steps), reduction=reduction)

    def sample(self, rng: random.Random, fraction: float) -> Architecture:
        """A random architecture with each unit dropped with probability `fraction`; never empty."""
        dropped = {unit for unit in self.units if rng.random() < fraction}
        candidate = self.decode(dropped)
        return self.decode(dropped - {rng.choice(self.units)}) if empty(candidate) else candidate


def empty(architecture: Architecture) -> bool:
    """Whether no unit at all is kept: such a model is refused."""
    return not any(
        architecture.keeps(layer, kind) for layer in range(architecture.depth) for kind in (Kind.ATTENTION, Kind.MLP)
    )
