"""Formats and a head in a search: a level that is milder need not be faster, and the head is a unit of its own."""

import itertools
import random
from dataclasses import dataclass

from test_level_search import REDUNDANCY

from latency_models.model import Prediction
from nas.quality import Quality
from nas.search import Problem, run_search
from nas.search.greedy_removal import GreedyRemoval
from nas.search.library import score_library
from nas.testing import SyntheticLatency
from search_spaces import Architecture, Choice, Kind, Space, Unit

DEPTH = 3
FORMATS = ("w8", "int8", "w4")
HEAD = Choice.parse("head:bits=w8").unit
MLPS = [Unit(layer, Kind.MLP) for layer in range(DEPTH)]
SPACE = Space(
    DEPTH,
    tuple(
        [unit.dropped for unit in MLPS]
        + [Choice.parse(f"{unit}:bits={name}") for unit in (*MLPS, HEAD) for name in FORMATS]
    ),
)


def name_format(architecture: Architecture, unit: Unit) -> str:
    """The format of a unit, `drop`, or nothing."""
    chosen = next((str(choice) for choice in architecture.choices if choice.unit == unit), None)
    return "" if chosen is None else chosen.partition("=")[2] or "drop"


@dataclass(frozen=True)
class Decoding(SyntheticLatency):
    """With one row `int8` is slower than `w8`, which loses less, and `w4` is the fastest."""

    def compute_ms(self, architecture: Architecture) -> float:
        shares = {"": 1.0, "w8": 0.6, "int8": 0.7, "w4": 0.35, "drop": 0.0}
        return 4.0 + sum(2 * shares[name_format(architecture, unit)] for unit in (*MLPS, HEAD))

    def predict(self, architecture: Architecture, percentile: int = 50) -> Prediction:
        ms = self.compute_ms(architecture)
        return Prediction(ms, ms, ms, percentile)

    def predict_unit_ms(self, chosen: Unit | Choice) -> float:
        return self.compute_ms(SPACE.parent) - self.compute_ms(SPACE.parent.drop(chosen))


class Loss:
    """Of every unit by its format; together they lose more."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.weight = {unit: rng.uniform(0.1, 1) for unit in (*MLPS, HEAD)}

    def compute(self, architecture: Architecture) -> float:
        lost = {"": 0.0, "w8": 0.02, "int8": 0.04, "w4": 0.2, "drop": 1.0}
        return sum(weight * lost[name_format(architecture, unit)] for unit, weight in self.weight.items()) ** 1.1

    def __call__(self, architecture: Architecture, items: int | None) -> Quality:
        loss = self.compute(architecture)
        return Quality("kl", loss, False, "validation", loss, items=1)


def problem(loss: Loss, budget_ms: float) -> Problem:
    return Problem(SPACE, loss, Decoding(DEPTH), budget_ms, 90, REDUNDANCY, "sqlite://", trials=60, patience=20)


def list_all() -> list[Architecture]:
    levels = [[None, *FORMATS, "drop"]] * DEPTH + [[None, *FORMATS]]
    rows = itertools.product(*levels)
    return [
        SPACE.decode(
            unit.dropped if name == "drop" else Choice.parse(f"{unit}:bits={name}")
            for unit, name in zip((*MLPS, HEAD), row, strict=True)
            if name
        )
        for row in rows
    ]


def test_a_search_finds_the_best_formats_of_parts_and_head() -> None:
    loss, budget = Loss(0), 7.0
    best = min(loss.compute(each) for each in list_all() if Decoding(DEPTH).compute_ms(each) <= budget)
    outcome = run_search(problem(loss, budget))
    assert outcome.winner.predicted_ms <= budget
    assert outcome.winner.quality.loss <= 1.03 * best


def test_greedy_removal_passes_by_levels_that_are_not_faster() -> None:
    """From `w8` on neither `int8` nor anything between: to `w4`, and then the part goes."""
    asked = problem(Loss(1), 4.8)
    removal = GreedyRemoval(asked, score_library(asked, None))
    removal.run(4.8)
    path = [SPACE.parent, *removal.path]
    for unit in MLPS:
        names = [name for name, _ in itertools.groupby(name_format(each, unit) for each in path)]
        assert names == ["", "w8", "w4", "drop"]
    assert name_format(path[-1], HEAD) == "w4"
    assert asked.is_feasible(path[-1])


def test_levels_that_lose_next_to_nothing_are_lowered_together_and_leave_a_step_each() -> None:
    """All four `w8` lose less per millisecond than a third of the cheapest drop: one round, five evaluations."""
    loss = Loss(2)
    asked = problem(loss, 6.0)
    removal = GreedyRemoval(asked, score_library(asked, None))
    known = len(removal.scored)
    removal.run(4.0 + 8 * 0.6)
    assert [sum(name_format(each, unit) == "w8" for unit in (*MLPS, HEAD)) for each in removal.path] == [1, 2, 3, 4]
    assert len(removal.scored) - known == 5
    assert removal.scored[removal.path[-1]] == loss.compute(removal.path[-1])
    for number, budget in enumerate((11.2, 10.4, 9.6, 8.8), 1):
        found = removal.find_first_within_budget(budget)
        assert found is not None
        assert sum(bool(name_format(found, unit)) for unit in (*MLPS, HEAD)) == number
