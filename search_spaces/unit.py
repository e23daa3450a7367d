"""A unit: a removable part of the parent."""

from dataclasses import dataclass
from enum import StrEnum

from search_spaces.errors import ArchitectureError


class Kind(StrEnum):
    """What a unit is: the attention of a block, its MLP, or the whole block with its norms."""

    ATTENTION = "attention"
    MLP = "mlp"
    BLOCK = "block"


@dataclass(frozen=True, order=True)
class Unit:
    """One removable part: `layer` counts blocks from 0. Written `attention.3`."""

    layer: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"

    @classmethod
    def parse(cls, text: str) -> "Unit":
        """Read `attention.3`.

        Raises:
            ArchitectureError: when `text` is not kind.layer.
        """
        kind, _, layer = text.partition(".")
        if kind not in set(Kind) or not layer.isdecimal():
            raise ArchitectureError(
                f"unit {text!r} is not KIND.LAYER with KIND one of {', '.join(Kind)}; write for example attention.3"
            )
        return cls(int(layer), Kind(kind))
