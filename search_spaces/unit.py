"""A unit: a removable part of the parent, or a step of its token reduction."""

from dataclasses import dataclass
from enum import StrEnum

from search_spaces.errors import ArchitectureError
from search_spaces.tokens import THOUSAND, permille_of


class Kind(StrEnum):
    """What a unit is: the attention of a block, its MLP, the whole block with its norms, or tokens."""

    ATTENTION = "attention"
    MLP = "mlp"
    BLOCK = "block"
    TOKENS = "tokens"


STRUCTURE = (Kind.ATTENTION, Kind.MLP, Kind.BLOCK)  # parts of the parent


@dataclass(frozen=True, order=True)
class Unit:
    """One removable part: `layer` counts blocks from 0. Written `attention.3`.

    Dropping the token unit `tokens.3=0.5` leaves at most `permille` thousandths (here 500) of the droppable tokens
    to block 3 and those after it. So it implies every unit of the same or a later block with more tokens.
    """

    layer: int
    kind: Kind
    permille: int = 0  # of tokens only

    def __post_init__(self) -> None:
        if self.kind is Kind.TOKENS and not 0 < self.permille < THOUSAND:
            raise ArchitectureError(
                f"token unit with ratio {self.permille / THOUSAND:g}: it leaves a share above 0 and below 1"
            )

    def __str__(self) -> str:
        ratio = f"={self.permille / THOUSAND:g}" if self.kind is Kind.TOKENS else ""
        return f"{self.kind}.{self.layer}{ratio}"

    @classmethod
    def parse(cls, text: str) -> "Unit":
        """Read `attention.3` or `tokens.3=0.5`.

        Raises:
            ArchitectureError: when `text` is not kind.layer.
        """
        kind, _, rest = text.partition(".")
        layer, equals, ratio = rest.partition("=")
        known = kind in set(Kind) and layer.isdecimal() and bool(equals) == (kind == Kind.TOKENS)
        if known and kind == Kind.TOKENS:
            try:
                return cls(int(layer), Kind.TOKENS, permille_of(float(ratio)))
            except ValueError:
                known = False
        if not known:
            raise ArchitectureError(
                f"unit {text!r} is not KIND.LAYER with KIND one of {', '.join(Kind)}; "
                "write for example attention.3 or tokens.3=0.5"
            )
        return cls(int(layer), Kind(kind))


def implies(unit: Unit, other: Unit) -> bool:
    """Whether dropping the token unit `unit` leaves no more tokens anywhere than dropping the token unit `other`."""
    return unit.kind is other.kind is Kind.TOKENS and unit.layer <= other.layer and unit.permille <= other.permille
