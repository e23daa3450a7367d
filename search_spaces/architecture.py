"""An architecture: one immutable choice of level for every unit of a parent."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from search_spaces.errors import ArchitectureError
from search_spaces.kinds import AFTER_BLOCKS, BEHIND, PARTS, Kind
from search_spaces.level import DROP, KEEP, THOUSAND, Level
from search_spaces.rules import SWALLOWS, implies, is_below, remove_hidden
from search_spaces.schedule import Reduction, Schedule, Stage
from search_spaces.unit import Choice, Unit, describe_level, find_kind, is_cumulative, is_structural, parse_level

DROPS_VERSION = 1  # parts that are dropped and nothing else, as the first release wrote it
TOKENS_VERSION = 2  # with token reduction
LEVELS_VERSION = 3  # with any other level
_NOTHING, _REMOVED = "none", "removed"
_SHORT = {Kind.ATTENTION: "attn", Kind.MLP: "mlp"}
_WITHOUT_CROSS = "-cross"  # not every block has a cross-attention, so it is named where it is gone


@dataclass(frozen=True)
class Architecture:
    """Which levels the units of a parent with `depth` blocks have. Pure data, hashable, JSON.

    Only levels other than the parent's are listed. A dropped unit contributes nothing to the residual stream; in a
    post-norm model its norm stays. A dropped block is gone with its norms, and nothing is listed beside it. Token
    levels make the token-drop schedule; those that others imply are not listed. `reduction` says how tokens are
    chosen, and is None where none are dropped.

    Example:
        >>> Architecture.parent(2).drop(Unit(1, Kind.MLP)).words
        'attn+mlp attn'
    """

    depth: int
    choices: frozenset[Choice] = frozenset()
    reduction: Reduction | None = None

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ArchitectureError(f"depth {self.depth} is below 1; a parent has at least one block")
        beyond = sorted(
            choice for choice in self.choices if choice.kind.in_blocks and not 0 <= choice.layer < self.depth
        )
        if beyond:
            raise ArchitectureError(
                f"{beyond[0]} is out of range: the parent has {self.depth} blocks, numbered 0 to {self.depth - 1}"
            )
        kept = remove_hidden(self.choices)
        if len(kept) < len(self.choices):
            object.__setattr__(self, "choices", frozenset(kept))
        if len({choice.unit for choice in kept}) < len(kept):
            raise ArchitectureError(f"{', '.join(map(str, sorted(kept)))}: a unit has one level; leave the others out")
        chosen = None if all(is_structural(choice) for choice in kept) else self.reduction or Reduction()
        if chosen != self.reduction:
            object.__setattr__(self, "reduction", chosen)

    @classmethod
    def parent(cls, depth: int) -> "Architecture":
        """The architecture that keeps everything."""
        return cls(depth)

    @property
    def levels(self) -> dict[Unit, Level]:
        """The level of every unit that has not the parent's, in order."""
        return {choice.unit: choice.level for choice in sorted(self.choices)}

    def get_level(self, unit: Unit) -> Level:
        """The level of a unit; of a part of a dropped block, dropped."""
        if self._is_swallowed(unit):
            return DROP
        return next((choice.level for choice in self.choices if choice.unit == unit), Level())

    def replace_level(self, unit: Unit, level: Level) -> "Architecture":
        """This architecture with another level of one unit; `Level()` is the parent's."""
        others = {choice for choice in self.choices if choice.unit != unit}
        return Architecture(
            self.depth, frozenset(others | ({unit.choose(level)} if level.axes else set())), self.reduction
        )

    def drop(self, *chosen: Unit | Choice) -> "Architecture":
        """This architecture with these choices made too; a unit stands for dropping it."""
        return Architecture(self.depth, self.choices | {make_choice(each) for each in chosen}, self.reduction)

    def restore(self, *chosen: Unit | Choice) -> "Architecture":
        """This architecture without exactly these of its choices; a unit stands for dropping it."""
        return Architecture(self.depth, self.choices - {make_choice(each) for each in chosen}, self.reduction)

    def drops(self, chosen: Unit | Choice) -> bool:
        """Whether no more is left of a unit than at this level: by itself, with its block, or by what implies it."""
        choice = make_choice(chosen)
        if choice in self.choices or self._is_swallowed(choice.unit):
            return True
        if is_cumulative(choice):
            return any(implies(other, choice) for other in self.choices)
        return choice.level != DROP and any(is_below(other, choice) for other in self.choices)

    def keeps(self, layer: int, kind: Kind) -> bool:
        """Whether anything of the unit of that kind in that layer is still there."""
        return not self.drops(Unit(layer, kind))

    def runs(self, layer: int, kind: Kind) -> bool:
        """Whether anything of the parent's own unit is left, and nothing else stands in its place."""
        level = self.get_level(Unit(layer, kind))
        return level != DROP and not any(find_kind(kind, axis).stands_in for axis, _ in level.axes)

    def _is_swallowed(self, unit: Unit) -> bool:
        return unit.layer in self._swallowed and unit.kind in self._swallowed[unit.layer]

    @cached_property
    def _swallowed(self) -> dict[int, tuple[Kind, ...]]:
        """By layer, the kinds of units that are gone with a larger one."""
        return {c.layer: SWALLOWS[c.unit.kind] for c in self.choices if c.unit.kind in SWALLOWS}

    @property
    def tokens(self) -> Schedule:
        """The token-drop schedule; without stages where no tokens are dropped."""
        steps = sorted(choice for choice in self.choices if not is_structural(choice))
        stages = (Stage(choice.layer, value) for choice in steps if (value := choice.level.get_value(KEEP)) is not None)
        return Schedule(tuple(stages), self.reduction or Reduction())

    @property
    def structure(self) -> "Architecture":
        """This architecture with all tokens."""
        return Architecture(self.depth, frozenset(choice for choice in self.choices if is_structural(choice)))

    def list_block_choices(self, layer: int) -> tuple[Choice, ...]:
        """What is chosen for the parts of a block, in order: two architectures that agree there compute the same.

        With `AFTER_BLOCKS` what is chosen for what follows the blocks.
        """
        return tuple(sorted(choice for choice in self.choices if choice.layer == layer and is_structural(choice)))

    def replace_tokens(self, schedule: Schedule) -> "Architecture":
        """This architecture's structure with another schedule.

        Raises:
            ArchitectureError: more stages than blocks, or one after the last block.
        """
        if len(schedule.stages) > self.depth:
            raise ArchitectureError(
                f"{len(schedule.stages)} stages ({schedule}) are more than the {self.depth} blocks; leave some out"
            )
        steps = {make_stage_choice(stage) for stage in schedule.stages if stage.permille < THOUSAND}
        return Architecture(self.depth, self.structure.choices | steps, schedule.reduction)

    def list_removed_blocks(self) -> tuple[int, ...]:
        """Layers whose whole block is gone, in order."""
        return tuple(sorted(self._swallowed))

    def merge_blocks(self, parts: tuple[Kind, ...] = PARTS) -> "Architecture":
        """Blocks with all `parts` dropped written as removed blocks: the same model where no norm is left over.

        Args:
            parts: the kinds of parts that the parent's blocks have.
        """
        bare = [layer for layer in range(self.depth) if not any(self.keeps(layer, kind) for kind in parts)]
        return self.drop(*(Unit(layer, Kind.BLOCK) for layer in bare if layer not in self._swallowed))

    @property
    def words(self) -> str:
        """One word per block, as EvoPress writes patterns: `attn+mlp attn mlp none removed`.

        A level other than dropped follows its part, `attn+mlp:width=0.5`, and where a stage of the token schedule
        begins, its ratio follows the block: `attn+mlp@0.5`. A block of a decoder without its attention to the encoder
        ends on `-cross`. What is chosen for the head comes last: `head:bits=w8`.
        """
        begins = {stage.block: f"@{stage.ratio:g}" for stage in self.tokens.stages}
        blocks = [self._describe_block(layer) + begins.get(layer, "") for layer in range(self.depth)]
        return " ".join([*blocks, *map(str, self.list_block_choices(AFTER_BLOCKS))])

    def _describe_block(self, layer: int) -> str:
        if layer in self._swallowed:
            return _REMOVED
        chosen = {choice.unit.kind: choice.level for choice in self.list_block_choices(layer)}
        levels = {kind: f":{describe_level(kind, level)}" for kind, level in chosen.items() if level != DROP}
        kept = [_SHORT[kind] + levels.get(kind, "") for kind in PARTS if chosen.get(kind) != DROP]
        crossless = _WITHOUT_CROSS if chosen.get(Kind.CROSS_ATTENTION) == DROP else ""
        return ("+".join(kept) or _NOTHING) + crossless

    @classmethod
    def from_words(cls, text: str) -> "Architecture":
        """Read what `words` writes; tokens are selected by the usual strategy, which the words do not tell.

        Raises:
            ArchitectureError: on a word that is none of them.
        """
        words = text.split()
        choices = {Choice.parse(word) for word in words if word.startswith(BEHIND)}
        blocks = [word for word in words if not word.startswith(BEHIND)]
        for layer, (word, at, ratio) in enumerate(word.partition("@") for word in blocks):
            if at:
                choices.add(Choice.parse(f"{Kind.TOKENS}.{layer}={ratio}"))
            choices |= _read_word(layer, word)
        return cls(len(blocks), frozenset(choices))

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name this architecture; equal for equal architectures."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """The JSON form: schema version, depth, what is chosen and, with token levels, the reduction.

        Drops and tokens are a list of names under `dropped`, as the first releases wrote them; with any other level
        all are under `levels`, unit to level.
        """
        document: dict[str, Any] = {"schema_version": DROPS_VERSION, "depth": self.depth}
        if self._only_keeps:
            document["dropped"] = [str(choice) for choice in sorted(self.choices)]
        else:
            document["schema_version"] = LEVELS_VERSION
            document["levels"] = {str(u): describe_level(u.kind, level) for u, level in self.levels.items()}
        if self.reduction is None:
            return document
        version = max(TOKENS_VERSION, document["schema_version"])
        return {**document, "schema_version": version, "reduction": self.reduction.to_json()}

    @property
    def _only_keeps(self) -> bool:
        return all(axis == KEEP for choice in self.choices for axis, _ in choice.level.axes)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Architecture":
        """Read what `to_json` writes.

        Raises:
            ArchitectureError: on another schema version, missing or unknown keys, or units out of range.
        """
        given = set(document) - {"reduction"} if isinstance(document, dict) else set()
        if given not in ({"schema_version", "depth", "dropped"}, {"schema_version", "depth", "levels"}):
            raise ArchitectureError(
                "an architecture has exactly the keys schema_version, depth and dropped (or levels), and reduction "
                "with tokens"
            )
        version = TOKENS_VERSION if "reduction" in document else DROPS_VERSION
        version = LEVELS_VERSION if "levels" in document else version
        if document["schema_version"] != version:
            raise ArchitectureError(
                f"schema_version {document['schema_version']!r} is not {version}; use the nas that wrote it"
            )
        depth = document["depth"]
        if not isinstance(depth, int):
            raise ArchitectureError("depth is an integer, the number of blocks of the parent")
        reduction = Reduction.from_json(document["reduction"]) if "reduction" in document else None
        return cls(depth, _read_choices(document), reduction)


def make_choice(chosen: Unit | Choice) -> Choice:
    """The choice that is meant: a unit stands for dropping it."""
    return chosen if isinstance(chosen, Choice) else chosen.dropped


def make_stage_choice(stage: Stage) -> Choice:
    """The choice that begins a stage of a token schedule."""
    return Unit(stage.block, Kind.TOKENS).choose(Level.on(KEEP, stage.permille))


def drop_from_parent(depth: int, units: Iterable[Unit | Choice], reduction: Reduction | None = None) -> Architecture:
    """The architecture that drops these units of a parent of `depth` blocks."""
    return Architecture(depth, frozenset(make_choice(unit) for unit in units), reduction)


def _read_choices(document: dict[str, Any]) -> frozenset[Choice]:
    if "dropped" in document:
        if not isinstance(document["dropped"], list):
            raise ArchitectureError("dropped is a list of unit names such as attention.3")
        return frozenset(Choice.parse(str(name)) for name in document["dropped"])
    if not isinstance(document["levels"], dict):
        raise ArchitectureError('levels are written as {"mlp.3": "width=0.5"}')
    choices = set()
    for name, text in document["levels"].items():
        unit = Unit.parse(str(name))
        try:
            choices.add(unit.choose(parse_level(unit.kind, str(text))))
        except ValueError:
            raise ArchitectureError(f"{name} at {text!r}: it is no level of such a unit") from None
    return frozenset(choices)


def _read_word(layer: int, word: str) -> set[Choice]:
    if word == _REMOVED:
        return {Unit(layer, Kind.BLOCK).dropped}
    if word.endswith(_WITHOUT_CROSS):
        crossless = {Unit(layer, Kind.CROSS_ATTENTION).dropped}
        return crossless | _read_word(layer, word.removesuffix(_WITHOUT_CROSS))
    parts = {} if word == _NOTHING else dict(_split(part) for part in word.split("+"))
    kinds = {short: kind for kind, short in _SHORT.items()}
    if not parts.keys() <= kinds.keys():
        known = ", ".join(["attn+mlp", "attn", "mlp", _NOTHING, _REMOVED])
        raise ArchitectureError(f"block {layer} reads {word!r}; each word is one of {known}")
    dropped = {Unit(layer, kind).dropped for short, kind in kinds.items() if short not in parts}
    return dropped | {Choice.parse(f"{Unit(layer, kinds[short])}:{level}") for short, level in parts.items() if level}


def _split(part: str) -> tuple[str, str]:
    short, _, level = part.partition(":")
    return short, level
