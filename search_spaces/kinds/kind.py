"""What the search knows of a kind of unit: its name, its levels as text, and which levels take others along."""

from dataclasses import dataclass
from enum import StrEnum

from search_spaces.level import KEEP

AFTER_BLOCKS = 1 << 20  # the `layer` of what a model has once, behind its blocks: no parent has as many


class Kind(StrEnum):
    """What a unit is: the attention of a block, its attention to an encoder's states, its MLP, the whole block with its
    norms, the tokens it is given, or the head of the model.

    Example:
        >>> str(Unit(3, Kind.MLP))
        'mlp.3'
    """

    ATTENTION = "attention"
    CROSS_ATTENTION = "cross-attention"
    MLP = "mlp"
    BLOCK = "block"
    TOKENS = "tokens"
    HEAD = "head"

    @property
    def in_blocks(self) -> bool:
        """Whether every block has such a unit; of others a model has one, behind its blocks."""
        return self is not Kind.HEAD


@dataclass(frozen=True)
class UnitKind:
    """One axis along which units of a kind may differ from the parent's. Registered under `name` in each layer.

    To add one, write a file with a `KIND` in `search_spaces/kinds`, one with a `SURGERY` in `pruning/kinds`, one with a
    `COST` in `latency_models/kinds` and one with an `EDIT` in `nas/export/kinds`.

    Attributes:
        name: what `--units` calls it, such as `mlp-width`.
        slot: the kind of the units that it gives levels to.
        axis: of those levels; `keep` with the value 0 drops the unit.
        structural: whether it changes the model's own parts; False where it changes what they are given.
        swallows: kinds of units of the same block that are gone with a dropped unit of this one.
        default: whether a search has it without being asked.
        stands_in: whether nothing of the unit is left at its levels: a module takes the unit's place whose weights
            compensation fits.
        graded: whether values on the axis are how much is left, so that losses between two of them can be interpolated.
        counted: whether its levels change a number that many engines read once for all blocks.
        by_length: whether its levels lose more on longer texts, so that they are judged on texts of the workload's
            length.

    Example:
        >>> UnitKind("mlp", Kind.MLP).describe(0)
        'drop'
    """

    name: str
    slot: Kind
    axis: str = KEEP
    structural: bool = True
    swallows: tuple[Kind, ...] = ()
    default: bool = True
    stands_in: bool = False
    graded: bool = True
    counted: bool = False
    by_length: bool = False

    def describe(self, value: int) -> str:
        """A value in words, as part of a level's: `drop`."""
        return "drop"

    def parse(self, text: str) -> int:
        """Read what `describe` writes.

        Raises:
            ValueError: it is none.
        """
        if text != "drop":
            raise ValueError(text)
        return 0

    @property
    def cumulative(self) -> bool:
        """Whether a level takes along levels of other units, so that a set of levels is closed under `implies`."""
        return False

    def implies(self, layer: int, value: int, other_layer: int, other_value: int) -> bool:
        """Whether a level of this kind at a block leaves no more, anywhere, than another of this kind."""
        return False
