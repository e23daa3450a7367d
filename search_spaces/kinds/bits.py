"""Fewer bits: the weights of a part in a format that a runtime multiplies in directly."""

from dataclasses import dataclass

from search_spaces.kinds.kind import UnitKind
from search_spaces.weight_formats import ALL_FORMATS, WeightFormat


def _rank(format: WeightFormat) -> tuple[int, bool, str]:
    """What loses most comes first: fewer bits, then a scale for more weights."""
    return format.bits, format.block is not None, format.name


# Values of the axis, which rise with what is left; only names are written.
_NAMES = {value: format.name for value, format in enumerate(sorted(ALL_FORMATS.values(), key=_rank), 1)}


@dataclass(frozen=True)
class BitsKind(UnitKind):
    """Its levels are formats: `attention.3:bits=w4` has all matrices of block 3's attention in 4 bits.

    Example:
        >>> KINDS["head-bits"].describe(KINDS["head-bits"].parse("w8"))
        'w8'
    """

    axis: str = "bits"
    default: bool = False
    graded: bool = False

    def describe(self, value: int) -> str:
        """The name of a format: `int8`."""
        if value not in _NAMES:
            raise ValueError(value)
        return _NAMES[value]

    def parse(self, text: str) -> int:
        """Read the name of a format."""
        values = {name: value for value, name in _NAMES.items()}
        if text not in values:
            raise ValueError(text)
        return values[text]
