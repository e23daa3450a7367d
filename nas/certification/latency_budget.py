"""One budget in milliseconds: as it was asked for, as it is aimed at, as it is accepted."""

from dataclasses import dataclass, replace

AIM = 0.97  # of what is accepted: the bound of what is judged lies a few per cent above it


@dataclass(frozen=True)
class LatencyBudget:
    """What a choice by measurement keeps to.

    Attributes:
        asked_ms: what was asked for, by the parent as it was profiled.
        aim_ms: what the search aims at: its problem's budget.
        accepted: share of what was asked for that the upper bound of a measured candidate must not exceed.

    Example:
        >>> LatencyBudget.aiming_below(20.0).aim_ms
        19.4
    """

    asked_ms: float
    aim_ms: float
    accepted: float = 1.0

    @classmethod
    def aiming_below(cls, asked_ms: float) -> "LatencyBudget":
        """The budget of a first search: a little below what was asked for."""
        return cls(asked_ms, AIM * asked_ms)

    @property
    def accepted_ms(self) -> float:
        """What the upper bound of a measured candidate must not exceed."""
        return self.accepted * self.asked_ms

    def aim_at(self, aim_ms: float) -> "LatencyBudget":
        """With another aim."""
        return replace(self, aim_ms=aim_ms)

    def narrow(self, share: float) -> "LatencyBudget":
        """With only that share of what was accepted accepted."""
        return replace(self, accepted=self.accepted * share)
