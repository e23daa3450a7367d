"""A bound on something beside latency that the parts of a model add up to: parameters, and with them memory."""

from dataclasses import dataclass, field

from search_spaces.architecture import Architecture
from search_spaces.unit import Kind, Unit


@dataclass(frozen=True)
class Limit:
    """At most so much of something.

    Attributes:
        name: of what, in the plural.
        parent: how much the parent has.
        saves: how much less there is without a unit.
        most: how much there may be.
    """

    name: str
    parent: float
    most: float
    saves: dict[Unit, float] = field(repr=False)

    def of(self, architecture: Architecture) -> float:
        """How much an architecture has; what a block shares with its parts is gone only with the block."""
        return self.parent - sum(self.saved(unit) for unit in sorted(architecture.dropped))

    def saved(self, unit: Unit) -> float:
        """How much less there is without a unit; dropped tokens change nothing."""
        return 0.0 if unit.kind is Kind.TOKENS else self.saves[unit]

    def met(self, architecture: Architecture) -> bool:
        """Whether an architecture keeps to it."""
        return self.of(architecture) <= self.most

    @property
    def excess(self) -> float:
        """How much the parent has to lose."""
        return self.parent - self.most
