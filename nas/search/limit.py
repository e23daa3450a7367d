"""A bound on something beside latency that the parts of a model add up to: parameters, and with them memory."""

from dataclasses import dataclass, field

from search_spaces.architecture import Architecture
from search_spaces.unit import Choice, is_structural


@dataclass(frozen=True)
class Limit:
    """At most so much of something.

    Attributes:
        name: of what, in the plural.
        parent: how much the parent has.
        saves: how much less there is with a choice; what is not listed changes nothing.
        maximum: how much there may be.
    """

    name: str
    parent: float
    maximum: float
    saves: dict[Choice, float] = field(repr=False)

    def count(self, architecture: Architecture) -> float:
        """How much an architecture has; what a block shares with its parts is gone only with the block."""
        return self.parent - sum(self.count_saved(choice) for choice in sorted(architecture.choices))

    def count_saved(self, choice: Choice) -> float:
        """How much less there is with a choice; fewer tokens change nothing."""
        return self.saves[choice] if is_structural(choice) else 0.0

    def is_met(self, architecture: Architecture) -> bool:
        """Whether an architecture keeps to it."""
        return self.count(architecture) <= self.maximum

    @property
    def excess(self) -> float:
        """How much the parent has to lose."""
        return self.parent - self.maximum
