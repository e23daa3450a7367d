"""Successive halving (Jamieson & Talwalkar, 2016) of finalists under one time for all of them.

All are trained for a short while, the better half goes on where it was, and so on until one is left, which is trained
for the rest of the time.
"""

import math
from dataclasses import dataclass
from typing import Any

EARLY = 0.3  # of the time, for all rungs but the last together
MOST = 0.5  # of the time that is left, which a rung before the last may take if its steps are slower than was planned
_RESERVE = 0.97  # of the time that steps are planned for: they may take longer than those that were timed


@dataclass(frozen=True)
class Rung:
    """A stretch of training of those finalists that are left.

    Attributes:
        until: how many steps each has made at its end.
        planned: how many steps the last one left will have made, as far as was known when the rung began.
        limits: by number of the finalists that take part, after how many seconds of its training each ends anyway.
        losses: on the validation split at its end, by finalist; None before.

    Example:
        >>> Rung(20, 100, {0: 9.0, 1: 9.0}, {0: 0.3, 1: 0.2}).list_best(1)
        (1,)
    """

    until: int
    planned: int
    limits: dict[int, float]
    losses: dict[int, float] | None = None

    @property
    def members(self) -> tuple[int, ...]:
        """Who takes part, by number."""
        return tuple(sorted(self.limits))

    def get_loss(self, member: int) -> float:
        """The loss of a member at the end."""
        assert self.losses is not None, "the rung is finished"
        return self.losses[member]

    def list_best(self, count: int) -> tuple[int, ...]:
        """The members with the lowest losses, best first."""
        return tuple(sorted(self.members, key=self.get_loss)[:count])

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        losses = None if self.losses is None else {str(member): loss for member, loss in self.losses.items()}
        limits = {str(member): limit for member, limit in self.limits.items()}
        return {"until": self.until, "planned": self.planned, "limits": limits, "losses": losses}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Rung":
        """Read what `to_json` writes."""
        limits, losses = (
            each and {int(member): float(value) for member, value in each.items()}
            for each in (document["limits"], document["losses"])
        )
        return cls(document["until"], document["planned"], limits, losses)


def list_rung_sizes(finalists: int) -> tuple[int, ...]:
    """How many take part in each rung.

    Example:
        >>> list_rung_sizes(4), list_rung_sizes(3), list_rung_sizes(1)
        ((4, 2, 1), (3, 2, 1), (1,))
    """
    sizes = [finalists]
    while sizes[-1] > 1:
        sizes.append(math.ceil(sizes[-1] / 2))
    return tuple(sizes)


def plan_steps(sizes: tuple[int, ...], rung: int, seconds: float, left_s: float, step_s: float) -> tuple[int, int]:
    """How many more steps each member of a rung makes in it, and the last one left in all rungs from it on.

    Args:
        sizes: of all rungs.
        rung: its number, from 0.
        seconds: for everything.
        left_s: of them, when it begins.
        step_s: that a step takes, with its share of the evaluations.
    """
    early = EARLY * seconds / max(1, len(sizes) - 1)
    ahead = len(sizes) - 1 - rung  # rungs before the last, from this one on
    budgets = [early] * ahead + [left_s - early * ahead]
    steps = [
        max(1, int(_RESERVE * budget / (size * step_s))) for budget, size in zip(budgets, sizes[rung:], strict=True)
    ]
    return steps[0], sum(steps)
