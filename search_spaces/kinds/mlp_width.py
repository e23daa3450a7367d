"""Narrower MLPs: of the neurons between the matrices a share stays."""

from dataclasses import dataclass

from search_spaces.kinds.kind import Kind, UnitKind
from search_spaces.level import THOUSAND, round_to_permille

MULTIPLE = 8  # neurons are kept in multiples of it, as registers and tiles have them


@dataclass(frozen=True)
class MlpWidthKind(UnitKind):
    """Levels are shares of the neurons: `mlp.3:width=0.5` keeps half of those of block 3's MLP."""

    def describe(self, value: int) -> str:
        """The share: `0.5`."""
        return f"{value / THOUSAND:g}"

    def parse(self, text: str) -> int:
        """Read a share between 0 and 1 in thousandths."""
        value = round_to_permille(float(text))
        if value == THOUSAND:
            raise ValueError(text)
        return value


def count_neurons(neurons: int, value: int) -> int:
    """How many neurons of an MLP a width of `value` thousandths keeps: a multiple of 8, from 8 to all of them."""
    nearest = MULTIPLE * round(neurons * value / THOUSAND / MULTIPLE)
    return min(neurons, max(MULTIPLE, nearest))


KIND = MlpWidthKind("mlp-width", Kind.MLP, axis="width", default=False)
