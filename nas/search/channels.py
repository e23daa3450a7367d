"""What counts of a part that can be narrowed, for methods that choose widths by that alone."""

from dataclasses import dataclass

from search_spaces.level import THOUSAND, Level
from search_spaces.unit import Choice, Unit


@dataclass(frozen=True)
class Channels:
    """The inputs of a part's last projection, in groups that stay or go together.

    Attributes:
        unit: the part.
        axis: of the levels on which groups go.
        scores: of every input; more of what is needed more.
        size: neighbouring inputs of a group.

    Example:
        >>> str(Channels(Unit(3, Kind.MLP), "width", (0.5,) * 32, 1).keep(24))
        'mlp.3:width=0.75'
    """

    unit: Unit
    axis: str
    scores: tuple[float, ...]
    size: int

    @property
    def groups(self) -> int:
        """How many there are."""
        return len(self.scores) // self.size

    def keep(self, count: int) -> Choice | None:
        """The part with so many groups, at least one; None where all stay."""
        if count >= self.groups:
            return None
        share = round(THOUSAND * max(1, count) / self.groups)
        return self.unit.choose(Level.on(self.axis, min(THOUSAND - 1, max(1, share))))
