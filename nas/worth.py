"""What dropping each unit buys: milliseconds on this target, against the loss it costs.

Fewer operations are not always fewer milliseconds: what a runtime overlaps, pads or waits for does not get faster.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from nas.search.problem import Problem
from search_spaces.unit import Kind, Unit

_NAMES = {Kind.ATTENTION: "an attention", Kind.MLP: "an MLP"}
NOTHING = 0.1  # of what a unit of its kind or another saves on average


@dataclass(frozen=True)
class Worth:
    """One unit dropped alone: ms saved at the asked percentile, and the validation loss, where it is known."""

    unit: Unit
    saves_ms: float
    loss: float | None = None
    buys: bool = True  # False: it saves next to nothing on this target

    @property
    def ms_per_loss(self) -> float | None:
        """Milliseconds saved per unit of loss; None without a loss above zero."""
        return self.saves_ms / self.loss if self.loss and self.loss > 0 else None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        rounded = {"saves_ms": self.saves_ms, "loss": self.loss, "ms_per_loss": self.ms_per_loss}
        figures = {name: None if value is None else round(value, 5) for name, value in rounded.items()}
        return {"unit": str(self.unit), **figures, "buys_time": self.buys}


def saved_ms(problem: Problem) -> tuple[Worth, ...]:
    """What every attention and MLP of the space saves; nothing is evaluated."""
    saves = {unit: ms for unit, ms in problem.saves_ms().items() if unit.kind is not Kind.BLOCK}
    usual = mean(saves.values()) if saves else 0.0
    return tuple(Worth(unit, ms, buys=ms > NOTHING * usual) for unit, ms in sorted(saves.items()))


def worth(problem: Problem) -> tuple[Worth, ...]:
    """The same with each unit's loss on the fewest items that trials are judged on, known since it was scored."""
    items, parent = problem.rungs[0], problem.space.parent
    return tuple(
        Worth(each.unit, each.saves_ms, problem.evaluate(parent.drop(each.unit), items).loss, each.buys)
        for each in saved_ms(problem)
    )


def in_words(units: Sequence[Worth], parent_ms: float) -> str:
    """One line for a person: what a unit of each kind saves, and which save nothing."""
    said = []
    for kind in _NAMES:
        mine = [each.saves_ms for each in units if each.unit.kind is kind and each.buys]
        if mine:
            low, high, share = min(mine), max(mine), 100 * mean(mine) / parent_ms
            span = f"{low:.3f}" if high < 1.01 * low else f"{low:.3f} to {high:.3f}"
            said.append(f"{_NAMES[kind]} saves {span} ms ({share:.1f} %)")
    idle = [str(each.unit) for each in units if not each.buys]
    if idle:
        said.append(f"dropping {', '.join(idle)} will not make it faster here")
    return "; ".join(said)
