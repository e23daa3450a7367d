"""A space: the architectures a search may propose."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from search_spaces.architecture import Architecture, make_choice, make_stage_choice
from search_spaces.errors import ArchitectureError
from search_spaces.kinds import PARTS, Kind
from search_spaces.level import Level, round_to_permille
from search_spaces.rules import SWALLOWS, list_cover_relations, list_exclusive_groups
from search_spaces.schedule import Reduction, Schedule, Stage
from search_spaces.unit import Choice, Unit, is_structural


@dataclass(frozen=True)
class Space:
    """Architectures of a parent with `depth` blocks that combine any of `choices` but do not drop everything.

    Each unit has its parent's level or one of those that are listed for it (`levels`); what goes together and what
    excludes each other are the rules of `search_spaces.rules`.

    `merges_blocks` says that dropping both units of a block is the same model as removing the block (every
    layout but post-norm, where the norms of dropped units stay); architectures are then written with the
    block removed, so that equal models have equal digests. Token levels among the choices are its steps of token
    reduction, and `reduction` is how tokens are chosen in all of it; or `fixed` is a schedule that all of it has.
    `parts` are the kinds of parts that the parent's blocks have, in the order in which they run.

    Example:
        >>> Space.dropping(2, [Unit(1, Kind.MLP)]).contains(Architecture.parent(2))
        True
    """

    depth: int
    choices: tuple[Choice, ...]
    merges_blocks: bool = True
    reduction: Reduction | None = None
    fixed: Schedule | None = None
    parts: tuple[Kind, ...] = PARTS

    def __post_init__(self) -> None:
        if not self.choices:
            raise ArchitectureError("a space needs at least one removable unit; name some with --units")
        object.__setattr__(self, "choices", tuple(sorted(set(self.choices))))
        for choice in self.choices:
            Architecture(self.depth, frozenset({choice}))  # refuses units out of range
        if self.fixed is not None and self.structure != self.choices:
            raise ArchitectureError(f"schedule {self.fixed} is fixed; a space has that or token units, leave one out")

    @classmethod
    def dropping(
        cls,
        depth: int,
        units: Iterable[Unit | Choice],
        merges_blocks: bool = True,
        reduction: Reduction | None = None,
        fixed: Schedule | None = None,
    ) -> "Space":
        """The space in which each of these units may be dropped; choices among them are taken as they are."""
        return cls(depth, tuple(make_choice(unit) for unit in units), merges_blocks, reduction, fixed)

    @cached_property
    def levels(self) -> dict[Unit, tuple[Level, ...]]:
        """The levels of every unit, the parent's first."""
        levels: dict[Unit, tuple[Level, ...]] = {}
        for choice in self.choices:
            levels[choice.unit] = (*levels.get(choice.unit, (Level(),)), choice.level)
        return levels

    @cached_property
    def implications(self) -> list[tuple[Choice, Choice]]:
        """Pairs (choice, other): who makes the first makes the second, and all that follows from such pairs."""
        return list_cover_relations(self.choices)

    @cached_property
    def exclusions(self) -> list[tuple[Choice, ...]]:
        """Groups of choices of which at most one is made."""
        return list_exclusive_groups(self.choices)

    @property
    def parent(self) -> Architecture:
        """The architecture that keeps everything."""
        return Architecture.parent(self.depth)

    @property
    def start(self) -> Architecture:
        """Where a search begins: the parent, with the schedule that is fixed."""
        return self.decode(())

    def make_canonical(self, architecture: Architecture) -> Architecture:
        """The one way this space writes an architecture."""
        chosen = Architecture(architecture.depth, architecture.choices, self.reduction or architecture.reduction)
        chosen = chosen if self.fixed is None else chosen.replace_tokens(self.fixed)
        return chosen.merge_blocks(self.parts) if self.merges_blocks else chosen

    def decode(self, chosen: Iterable[Unit | Choice]) -> Architecture:
        """The canonical architecture with these choices; a unit stands for dropping it."""
        return self.make_canonical(Architecture(self.depth, frozenset(make_choice(each) for each in chosen)))

    def contains(self, architecture: Architecture) -> bool:
        """Whether a search in this space may propose `architecture`."""
        if architecture.depth != self.depth or is_empty(architecture):
            return False
        if architecture.reduction is not None and self.reduction not in (None, architecture.reduction):
            return False
        if self.fixed is not None and architecture != architecture.replace_tokens(self.fixed):
            return False
        available, asked = set(self.choices), architecture if self.fixed is None else architecture.structure
        return all(choice in available or self._split_into_parts(choice) <= available for choice in asked.choices)

    def _split_into_parts(self, choice: Choice) -> set[Choice]:
        """A dropped block as its dropped parts, where that is the same model."""
        if not self.merges_blocks or choice.unit.kind not in SWALLOWS:
            return {choice}
        return {Unit(choice.layer, kind).dropped for kind in SWALLOWS[choice.unit.kind] if kind in self.parts}

    @cached_property
    def structure(self) -> tuple[Choice, ...]:
        """Its choices that change parts of the parent."""
        return tuple(choice for choice in self.choices if is_structural(choice))

    @cached_property
    def steps(self) -> tuple[Choice, ...]:
        """Its choices that change what the parts are given: where stages of token reduction may begin, and how."""
        return tuple(choice for choice in self.choices if not is_structural(choice))

    def allow_tokens(self, reduction: Reduction, blocks: Iterable[int], ratios: Iterable[float]) -> "Space":
        """This space with a token stage allowed before each of these blocks at each of these ratios."""
        ratios = sorted(ratios)
        steps = (make_stage_choice(Stage(block, round_to_permille(ratio))) for block in blocks for ratio in ratios)
        return replace(self, choices=(*self.structure, *steps), reduction=reduction)

    def sample(self, rng: random.Random, fraction: float) -> Architecture:
        """A random architecture that makes each choice with probability `fraction`; never empty.

        Of several levels of a unit the one that leaves least is taken.
        """
        chosen = {choice for choice in self.choices if rng.random() < fraction}
        candidate = self.decode(chosen)
        return self.decode(chosen - {rng.choice(self.choices)}) if is_empty(candidate) else candidate


def is_empty(architecture: Architecture) -> bool:
    """Whether no attention and no MLP is kept: such a model is refused."""
    return not any(architecture.keeps(layer, kind) for layer in range(architecture.depth) for kind in PARTS)
