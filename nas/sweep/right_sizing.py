"""Right-sizing: for each target and number of milliseconds, which base model is best, and how much of it.

A fraction such as 0.8x is another number of milliseconds for every model, so budgets are taken in ms: each that some
cell was asked for, with every model that is as fast, whatever it was searched for, whole ones included.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nas.sweep.cell import shorten_model_name
from nas.sweep.row import Model, Row

_Z = 1.96  # 95 %, normal
_SAME = 1 + 1e-6  # budgets within rounding of each other are one


@dataclass(frozen=True)
class Kind:
    """What makes options comparable: the same metric on the same data under the same workload.

    A metric that compares a model with its own parent (KL, embedding fidelity) is comparable within that `model` only;
    for an absolute one `model` is empty.
    """

    metric: str
    data: str
    workload: str
    model: str


@dataclass(frozen=True)
class Option:
    """A model that could be deployed: a winner, or a whole base model. `share` is of the base model's parameters."""

    kind: Kind
    base: str
    model: Model
    share: float
    cell: str

    @property
    def words(self) -> str:
        """Which, and how much of it."""
        how = "whole" if self.share == 1 else f"{100 * self.share:.0f} % of its parameters"
        score = self.model.score
        return f"{shorten_model_name(self.base)}, {how}: {score.metric} {score.value:.4g} at {self.model.ms:.3g} ms"


@dataclass(frozen=True)
class Choice:
    """The best option of one kind, and the best of another base model behind it.

    `clear` says whether the difference is outside what the number of test items allows to be chance; None where that
    is not known, as for a perplexity.
    """

    best: Option
    next_best: Option | None
    clear: bool | None


@dataclass(frozen=True)
class Answer:
    """Of one target within one number of ms: the choice of each kind. With several, none is better than another."""

    target: str
    budget_ms: float
    choices: tuple[Choice, ...]

    @property
    def words(self) -> list[str]:
        """What a person reads."""
        if not self.choices:
            return ["no model found is fast enough"]
        return [_describe(choice) for choice in self.choices]

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        comparable = len(self.choices) < 2
        choices = [_encode_choice(choice) for choice in self.choices]
        return {"target": self.target, "budget_ms": self.budget_ms, "comparable": comparable, "choices": choices}


def find_right_sizes(rows: Sequence[Row]) -> tuple[Answer, ...]:
    """An answer for every target and every budget in ms, in the order of the targets, tightest first."""
    answers: list[Answer] = []
    for target in dict.fromkeys(row.target for row in rows):
        here = [row for row in rows if row.target == target]
        options = _list_options(here)
        for budget_ms in _list_distinct(row.budget_ms for row in here if row.budget_ms is not None):
            fast = [option for option in options if option.model.ms <= budget_ms * _SAME]
            answers.append(Answer(target, budget_ms, _list_choices(fast)))
    return tuple(answers)


def _list_options(rows: Sequence[Row]) -> list[Option]:
    """The winners of a target, and every base model once."""
    options: dict[tuple[Kind, str], Option] = {}
    for row in rows:
        if row.parent is not None and row.winner is not None:
            for model, cell in ((row.parent, ""), (row.winner, row.cell.name)):
                kind, base = _get_kind(row, model), row.cell.model
                share = model.parameters / row.parent.parameters
                options.setdefault((kind, cell or base), Option(kind, base, model, share, cell))
    return list(options.values())


def _get_kind(row: Row, model: Model) -> Kind:
    """Without a digest nothing is known of the data, so nothing is compared across models."""
    across = model.score.absolute and bool(row.data)
    return Kind(model.score.metric, row.data, row.workload, "" if across else row.cell.model)


def _list_choices(options: Sequence[Option]) -> tuple[Choice, ...]:
    kinds = dict.fromkeys(option.kind for option in options)
    return tuple(_choose([option for option in options if option.kind == kind]) for kind in kinds)


def _choose(options: Sequence[Option]) -> Choice:
    """The best, of equals the faster."""
    ranked = sorted(options, key=lambda option: (-_compute_goodness(option), option.model.ms, option.cell))
    others = [option for option in ranked if option.base != ranked[0].base]
    return Choice(ranked[0], others[0] if others else None, _is_clear(ranked[0], others[0]) if others else None)


def _compute_goodness(option: Option) -> float:
    score = option.model.score
    return score.value if score.higher_is_better else -score.value


def _is_clear(best: Option, other: Option) -> bool | None:
    """Whether two shares of items differ by more than chance; as if the items were drawn for each anew (careful)."""
    scores = best.model.score, other.model.score
    if scores[0].metric != "accuracy":
        return None
    variance = sum(score.value * (1 - score.value) / score.items for score in scores)
    return abs(scores[0].value - scores[1].value) > _Z * math.sqrt(variance)


def _list_distinct(budgets: Iterable[float]) -> list[float]:
    kept: list[float] = []
    for budget in sorted(budgets):
        if not kept or budget > kept[-1] * _SAME:
            kept.append(budget)
    return kept


def _describe(choice: Choice) -> str:
    if choice.next_best is None:
        return choice.best.words
    sure = {True: "clearly ahead of", False: "not clearly ahead of", None: "ahead of"}[choice.clear]
    return f"{choice.best.words}; {sure} {choice.next_best.words}"


def _encode_choice(choice: Choice) -> dict[str, Any]:
    kind = choice.best.kind
    return {
        "metric": kind.metric,
        "workload": kind.workload,
        "data": kind.data,
        "across_models": not kind.model,
        "best": _encode_option(choice.best),
        "next_best": choice.next_best and _encode_option(choice.next_best),
        "clear": choice.clear,
    }


def _encode_option(option: Option) -> dict[str, Any]:
    return {
        "model": option.base,
        "cell": option.cell or None,
        "share_of_parameters": round(option.share, 4),
        "ms": option.model.ms,
        "value": option.model.score.value,
    }
