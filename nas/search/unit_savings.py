"""What dropping each unit saves: milliseconds on this target, against the loss it costs.

Fewer operations are not always fewer milliseconds: what a runtime overlaps, pads or waits for does not get faster.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from nas.search.problem import Problem
from search_spaces.architecture import Architecture
from search_spaces.kinds import BEHIND, KNOWN_PARTS, Kind
from search_spaces.level import DROP, KEEP, THOUSAND
from search_spaces.unit import Choice, describe_level, is_structural

_NAMES = {Kind.ATTENTION: "an attention", Kind.CROSS_ATTENTION: "a cross-attention", Kind.MLP: "an MLP"}
NOTHING = 0.1  # of what a unit of its kind or another saves on average


@dataclass(frozen=True)
class UnitSavings:
    """One choice alone: ms saved at the asked percentile, and the validation loss, where it is known."""

    choice: Choice
    saves_ms: float
    loss: float | None = None
    effective: bool = True  # False: it saves next to nothing on this target

    @property
    def ms_per_loss(self) -> float | None:
        """Milliseconds saved per unit of loss; None without a loss above zero."""
        return self.saves_ms / self.loss if self.loss and self.loss > 0 else None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        rounded = {"saves_ms": self.saves_ms, "loss": self.loss, "ms_per_loss": self.ms_per_loss}
        figures = {name: None if value is None else round(value, 5) for name, value in rounded.items()}
        return {"unit": str(self.choice), **figures, "buys_time": self.effective}


def predict_savings(problem: Problem) -> tuple[UnitSavings, ...]:
    """What every level of a part or of the head saves, and every stage of a token schedule; nothing is evaluated."""
    savings, steps = problem.estimate_savings(), problem.space.steps
    parts = {c: savings.alone[c] for c in problem.space.structure if c.unit.kind in (*KNOWN_PARTS, *BEHIND)}
    dropped = [ms for choice, ms in parts.items() if choice.level == DROP]
    usual = mean(dropped) if dropped else 0.0
    by_choice = [UnitSavings(choice, ms, effective=ms > NOTHING * usual) for choice, ms in sorted(parts.items())]
    whole = (
        savings.compute(savings.encoding.encode_rows([_drop_alone(problem, step) for step in steps])) if steps else ()
    )
    start_ms, depth = problem.predict_ms(problem.space.start), problem.space.depth
    for step, ms in zip(steps, map(float, whole), strict=True):
        share = (1 - _get_share(step)) * (depth - step.layer) / depth  # of the tokens in all blocks
        by_choice.append(UnitSavings(step, ms, effective=ms > NOTHING * share * start_ms))
    return tuple(by_choice)


def predict_savings_with_loss(problem: Problem) -> tuple[UnitSavings, ...]:
    """The same with each unit's loss on the fewest items that trials are judged on, known since it was scored."""
    items = problem.rungs[0]
    return tuple(
        UnitSavings(
            each.choice, each.saves_ms, problem.evaluate(_drop_alone(problem, each.choice), items).loss, each.effective
        )
        for each in predict_savings(problem)
    )


def _drop_alone(problem: Problem, choice: Choice) -> Architecture:
    """Made where the search starts; a step of token reduction is the one stage of a schedule then."""
    return problem.space.make_canonical(problem.space.start.drop(choice))


def _get_share(step: Choice) -> float:
    """The share of the tokens that a step leaves."""
    return (step.level.get_value(KEEP) or 0) / THOUSAND


def describe_savings(units: Sequence[UnitSavings], parent_ms: float) -> str:
    """One line for a person: what a unit of each kind saves, and which save nothing."""
    lines = []
    for kind in _NAMES:
        mine = [
            each.saves_ms
            for each in units
            if each.choice.unit.kind is kind and each.choice.level == DROP and each.effective
        ]
        if mine:
            low, high, share = min(mine), max(mine), 100 * mean(mine) / parent_ms
            span = f"{low:.3f}" if high < 1.01 * low else f"{low:.3f} to {high:.3f}"
            lines.append(f"{_NAMES[kind]} saves {span} ms ({share:.1f} %)")
    steps = [each for each in units if not is_structural(each.choice) and each.effective]
    if steps:
        largest = max(steps, key=lambda each: each.saves_ms)
        half = min(steps, key=lambda each: (abs(_get_share(each.choice) - 0.5), each.choice.layer))
        lines.append(" and ".join(_describe_step(each, parent_ms) for each in dict.fromkeys((half, largest))))
    without = list_ineffective_units(units)
    if without:
        lines.append(f"dropping {', '.join(without)} will not make the model faster here")
    levels = _count_ineffective_levels(units)
    if levels:
        words = ", ".join(f"{level} of {count} units" for level, count in levels.items())
        lines.append(f"{words} will not make the model faster here")
    return "; ".join(lines)


def list_ineffective_units(units: Sequence[UnitSavings]) -> list[str]:
    """What saves next to nothing: parts, and tokens from blocks on where no stage saves anything."""
    parts = [str(each.choice) for each in units if not each.effective and each.choice.level == DROP]
    steps = [each for each in units if not is_structural(each.choice)]
    useful = {each.choice.layer for each in steps if each.effective}
    return parts + [f"tokens.{block}" for block in sorted({each.choice.layer for each in steps} - useful)]


def _count_ineffective_levels(units: Sequence[UnitSavings]) -> dict[str, int]:
    """Levels other than dropped that save next to nothing, as `attention:bits=w8`, and of how many units."""
    idle = (each.choice for each in units if not each.effective and is_structural(each.choice))
    names = (f"{each.kind}:{describe_level(each.kind, each.level)}" for each in idle if each.level != DROP)
    return dict(Counter(names))


def _describe_step(each: UnitSavings, parent_ms: float) -> str:
    left, part = f"{100 * _get_share(each.choice):g} %", f"{100 * each.saves_ms / parent_ms:.1f} %"
    return f"keeping {left} of the tokens from block {each.choice.layer} on saves {each.saves_ms:.3f} ms ({part})"
