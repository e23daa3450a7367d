"""A level: one setting of a unit, as a point on its axes."""

from dataclasses import dataclass

from search_spaces.errors import ArchitectureError

THOUSAND = 1000
KEEP = "keep"  # the axis that every kind has: how much of a unit is kept, in thousandths


@dataclass(frozen=True, order=True)
class Level:
    """What differs from the parent, as values of axes in the order of their names; no axis at all is the parent's.

    Values are whole numbers, shares in thousandths, so that they are exact in files.

    Example:
        >>> Level.on("width", 500).get_value("width")
        500
    """

    axes: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.axes]
        if names != sorted(set(names)):
            raise ArchitectureError(
                f"axes {', '.join(names)}: each axis of a level is named once, in alphabetical order"
            )

    @classmethod
    def on(cls, axis: str, value: int) -> "Level":
        """The level that differs from the parent in one axis."""
        return cls(((axis, value),))

    def get_value(self, axis: str) -> int | None:
        """The value of an axis; None where it is the parent's."""
        return next((value for name, value in self.axes if name == axis), None)


DROP = Level.on(KEEP, 0)


def round_to_permille(ratio: float) -> int:
    """A ratio in thousandths: exact in files, and whole numbers can be traced.

    Raises:
        ArchitectureError: it is outside (0, 1].
    """
    if not 0 < ratio <= 1:
        raise ArchitectureError(f"ratio {ratio:g} is outside (0, 1]; give the share of the tokens that stays")
    return max(1, round(THOUSAND * ratio))
