"""Shares: levels that say how much of a unit stays."""

from dataclasses import dataclass

from search_spaces.kinds.kind import UnitKind
from search_spaces.level import THOUSAND, round_to_permille


@dataclass(frozen=True)
class ShareKind(UnitKind):
    """Its values are thousandths, below all of them, and are written as shares: `0.5`."""

    def describe(self, value: int) -> str:
        """The share: `0.5`."""
        return f"{value / THOUSAND:g}"

    def parse(self, text: str) -> int:
        """Read a share between 0 and 1 in thousandths."""
        value = round_to_permille(float(text))
        if value == THOUSAND:
            raise ValueError(text)
        return value
