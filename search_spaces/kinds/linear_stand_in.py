"""Linear stand-ins: one matrix in the place of a whole part, fitted to what the part gave."""

from dataclasses import dataclass

from search_spaces.kinds.kind import UnitKind

LINEAR = 1  # the only value of the axis `form`; 0 is left for nothing at all, which is dropping the unit
_WORD = "linear"


@dataclass(frozen=True)
class LinearStandInKind(UnitKind):
    """Its one level: `attention.3:form=linear` has a linear map in the place of block 3's attention."""

    axis: str = "form"
    default: bool = False
    stands_in: bool = True

    def describe(self, value: int) -> str:
        """`linear`."""
        if value != LINEAR:
            raise ValueError(value)
        return _WORD

    def parse(self, text: str) -> int:
        """Read `linear`."""
        if text != _WORD:
            raise ValueError(text)
        return LINEAR
