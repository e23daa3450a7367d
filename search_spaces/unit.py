"""Units, and the levels that are chosen for them."""

from dataclasses import dataclass
from functools import cache

from search_spaces.errors import ArchitectureError
from search_spaces.kinds import AFTER_BLOCKS, KINDS, Kind, UnitKind
from search_spaces.level import DROP, KEEP, Level

_EXAMPLES = "attention.3 or tokens.3=0.5"


@dataclass(frozen=True, order=True)
class Unit:
    """What one decision is about: a part of block `layer` (counted from 0), the tokens from there on, or the head.

    What a model has once has the layer `AFTER_BLOCKS`, and is written without one.

    Example:
        >>> str(Unit(3, Kind.MLP))
        'mlp.3'
    """

    layer: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}" if self.kind.in_blocks else str(self.kind)

    def choose(self, level: Level) -> "Choice":
        """This unit at a level other than the parent's."""
        return Choice(self, level)

    @property
    def dropped(self) -> "Choice":
        """This unit, dropped."""
        return Choice(self, DROP)

    @classmethod
    def parse(cls, text: str) -> "Unit":
        """Read `mlp.3` or `head`.

        Raises:
            ArchitectureError: when `text` is not kind.layer, or the kind alone of what a model has once.
        """
        kind, dot, layer = text.partition(".")
        if kind not in set(Kind) or not (layer.isdecimal() if Kind(kind).in_blocks else not dot):
            raise ArchitectureError(_describe_wrong_unit(text))
        return cls(int(layer) if dot else AFTER_BLOCKS, Kind(kind))


@dataclass(frozen=True, order=True)
class Choice:
    """A unit at a level that is not the parent's: `mlp.3` dropped, `tokens.3=0.5`, `mlp.3:width=0.5`.

    Example:
        >>> str(Choice.parse("tokens.3=0.5"))
        'tokens.3=0.5'
    """

    unit: Unit
    level: Level

    def __post_init__(self) -> None:
        _check(self.unit.kind, self.level)

    @property
    def layer(self) -> int:
        """The block of the unit."""
        return self.unit.layer

    @property
    def kind(self) -> Kind:
        """The kind of the unit."""
        return self.unit.kind

    def __str__(self) -> str:
        if self.level == DROP:
            return str(self.unit)
        if len(self.level.axes) == 1 and self.level.axes[0][0] == KEEP:
            return f"{self.unit}={describe_level(self.unit.kind, self.level)}"
        return f"{self.unit}:{describe_level(self.unit.kind, self.level)}"

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """Read `attention.3` (dropped), `tokens.3=0.5` or `mlp.3:width=0.5`.

        Raises:
            ArchitectureError: when `text` is none.
        """
        head, colon, axes = text.partition(":")
        name, equals, share = head.partition("=")
        if equals and colon:
            raise ArchitectureError(_describe_wrong_unit(text))
        unit = Unit.parse(name)
        try:
            return cls(unit, parse_level(unit.kind, axes if colon else share if equals else "drop"))
        except (ArchitectureError, ValueError):
            raise ArchitectureError(_describe_wrong_unit(text)) from None


@cache
def _check(kind: Kind, level: Level) -> None:
    for axis, value in level.axes:
        try:
            find_kind(kind, axis).parse(find_kind(kind, axis).describe(value))
        except (ArchitectureError, ValueError):
            raise ArchitectureError(f"{kind} units have no level {axis} = {value}") from None
    if not level.axes:
        raise ArchitectureError(f"the parent's level of {kind} units is not chosen; leave the unit out")


@cache
def find_kind(kind: Kind, axis: str) -> UnitKind:
    """The registered kind that gives units of `kind` their levels on an axis.

    Raises:
        ArchitectureError: none does.
    """
    for each in KINDS.values():
        if each.slot is kind and each.axis == axis:
            return each
    known = ", ".join(each.axis for each in KINDS.values() if each.slot is kind)
    raise ArchitectureError(f"{kind} units have no axis {axis!r}; theirs are {known}")


def is_structural(choice: Choice) -> bool:
    """Whether a choice changes the model's own parts, not what they are given."""
    return _read_traits(choice.unit.kind, choice.level)[0]


def is_cumulative(choice: Choice) -> bool:
    """Whether a choice takes along others (`search_spaces.rules.implies`)."""
    return _read_traits(choice.unit.kind, choice.level)[1]


@cache
def list_kinds(choice: Choice) -> frozenset[str]:
    """The names of the registered kinds on whose axes a choice differs from the parent."""
    return frozenset(find_kind(choice.unit.kind, axis).name for axis, _ in choice.level.axes)


@cache
def _read_traits(kind: Kind, level: Level) -> tuple[bool, bool]:
    kinds = [find_kind(kind, axis) for axis, _ in level.axes]
    return all(each.structural for each in kinds), any(each.cumulative for each in kinds)


def describe_level(kind: Kind, level: Level) -> str:
    """A level in words: `drop`, `0.5`, `bits=8,width=0.5`."""
    words = [(axis, find_kind(kind, axis).describe(value)) for axis, value in level.axes]
    return ",".join(word if axis == KEEP else f"{axis}={word}" for axis, word in words)


def parse_level(kind: Kind, text: str) -> Level:
    """Read what `describe_level` writes.

    Raises:
        ArchitectureError: an axis that such units do not have.
        ValueError: a value that the axis does not have.
    """
    pairs = [
        (axis, word) if equals else (KEEP, axis) for axis, equals, word in (p.partition("=") for p in text.split(","))
    ]
    return Level(tuple(sorted((axis, find_kind(kind, axis).parse(word)) for axis, word in pairs)))


def _describe_wrong_unit(text: str) -> str:
    known = ", ".join(kind for kind in Kind if kind.in_blocks)
    return f"unit {text!r} is not KIND.LAYER with KIND one of {known}, or a head's level; write for example {_EXAMPLES}"
