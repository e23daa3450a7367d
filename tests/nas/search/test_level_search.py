"""Units with several levels: the exact solve takes one of each, and a search finds the optimum among all."""

import itertools
import random

import numpy as np
import pytest

from latency_models.model import Prediction
from nas.quality import Quality
from nas.search import Problem, run_search
from nas.search.greedy_removal import GreedyRemoval
from nas.search.level_interpolation import interpolate_losses, split_levels
from nas.search.levels import encode, list_distributions
from nas.search.library import score_library
from nas.search.solve import solve
from nas.testing import SyntheticLatency
from pruning.analysis.redundancy import Redundancy
from search_spaces import Architecture, Choice, Encoding, Kind, Level, Space, Unit

DEPTH = 3
WIDTHS = tuple(Level.on("width", value) for value in (750, 500, 250))
CHOICES = tuple(
    choice
    for layer in range(DEPTH)
    for choice in (
        Unit(layer, Kind.ATTENTION).dropped, Unit(layer, Kind.MLP).dropped,
        *(Unit(layer, Kind.MLP).choose(level) for level in WIDTHS),
    )
)  # fmt: skip
SPACE = Space(DEPTH, CHOICES)
LATENCY = SyntheticLatency(DEPTH)
ALIKE = (0.5, 0.6, 0.7)
REDUNDANCY = Redundancy("made", "pre_norm", 1, ALIKE, ALIKE, ALIKE, ((1.0,) * (DEPTH + 1),) * (DEPTH + 1))


def every() -> list[Architecture]:
    """One level of every unit, in all combinations, but for the empty model."""
    levels = [[unit.choose(level) if level.axes else None for level in found] for unit, found in SPACE.levels.items()]
    chosen = (SPACE.decode([each for each in row if each is not None]) for row in itertools.product(*levels))
    return [architecture for architecture in chosen if SPACE.contains(architecture)]


class Landscape:
    """A loss of every part that grows with the square of what is taken away, and pairs that add to each other."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.parts = [Unit(layer, kind) for layer in range(DEPTH) for kind in (Kind.ATTENTION, Kind.MLP)]
        self.single = {part: rng.uniform(0.1, 1) for part in self.parts}
        self.pair = {pair: rng.uniform(-0.1, 0.5) for pair in itertools.combinations(self.parts, 2)}
        self.known: dict[tuple[Architecture, int | None], Quality] = {}

    def taken(self, architecture: Architecture, part: Unit) -> float:
        if architecture.drops(part):
            return 1.0
        return 1 - (architecture.get_level(part).get_value("width") or 1000) / 1000

    def loss(self, architecture: Architecture) -> float:
        taken = {part: self.taken(architecture, part) for part in self.parts}
        alone = sum(self.single[part] * share**2 for part, share in taken.items())
        return max(1e-3 * sum(taken.values()), alone + sum(m * taken[a] * taken[b] for (a, b), m in self.pair.items()))

    def __call__(self, architecture: Architecture, items: int | None) -> Quality:
        loss = self.loss(architecture)
        return self.known.setdefault((architecture, items), Quality("kl", loss, False, "validation", loss, items=1))


def problem(landscape: Landscape, budget_ms: float, **more) -> Problem:
    settings = {"redundancy": REDUNDANCY, "storage": "sqlite://", "trials": 60, "patience": 20}
    return Problem(SPACE, landscape, LATENCY, budget_ms, 90, **{**settings, **more})


def test_there_are_as_many_architectures_as_combinations_of_levels() -> None:
    architectures = every()
    assert len(set(architectures)) == len(architectures) == 2**DEPTH * 5**DEPTH - 1
    assert len({architecture.digest for architecture in architectures}) == len(architectures)


def test_rows_are_one_hot_and_come_back() -> None:
    encoding, architectures = Encoding(SPACE.choices), every()
    rows = encoding.encode_rows(architectures)
    for unit in SPACE.levels:
        own = [column for column, choice in enumerate(SPACE.choices) if choice.unit == unit]
        assert rows[:, own].sum(1).max() == 1
    assert [SPACE.decode(chosen) for chosen in encoding.decode(rows)] == architectures
    assert np.array_equal(encoding.make_canonical(rows, SPACE.merges_blocks), rows)
    both = rows.copy()
    both[:, SPACE.choices.index(Unit(0, Kind.MLP).choose(WIDTHS[0]))] = True  # beside a level that leaves less, nothing
    expected = [
        a if a.drops(Unit(0, Kind.MLP).choose(WIDTHS[0])) else a.drop(Unit(0, Kind.MLP).choose(WIDTHS[0]))
        for a in architectures
    ]
    assert np.array_equal(encoding.make_canonical(both, SPACE.merges_blocks), encoding.encode_rows(expected))


@pytest.mark.parametrize("seed", range(4))
def test_the_exact_solve_takes_one_level_of_every_unit(seed: int) -> None:
    rng = random.Random(seed)
    loss = {choice: rng.uniform(0, 1) for choice in SPACE.choices}
    saves = {choice: rng.uniform(0.5, 3) for choice in SPACE.choices}

    def total(architecture: Architecture, of: dict[Choice, float]) -> float:
        row = Encoding(SPACE.choices).encode_rows([architecture])[0]
        return sum(of[choice] for choice, made in zip(SPACE.choices, row, strict=True) if made)

    needed = 0.3 * sum(saves.values())
    best = min(total(a, loss) for a in every() if total(a, saves) >= needed)
    found = solve(SPACE, loss, saves, needed, solutions=4)
    assert total(found[0], loss) == pytest.approx(best, abs=1e-6)
    for architecture in found:
        assert len({choice.unit for choice in architecture.choices}) == len(architecture.choices)
        assert total(architecture, saves) >= needed - 1e-6


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_search_finds_the_optimum_among_all_levels(seed: int) -> None:
    landscape = Landscape(seed)
    budget = 0.55 * LATENCY.compute_ms(SPACE.parent)
    best = min(landscape.loss(a) for a in every() if LATENCY.compute_ms(a) <= budget)
    outcome = run_search(problem(landscape, budget))
    assert outcome.winner.predicted_ms <= budget
    assert outcome.winner.quality.loss <= 1.03 * best
    dropped = min(landscape.loss(a) for a in every() if LATENCY.compute_ms(a) <= budget and not widths(a))
    assert outcome.winner.quality.loss < dropped  # which is why there are levels


def widths(architecture: Architecture) -> list[Choice]:
    return [choice for choice in architecture.choices if choice.level in WIDTHS]


def test_greedy_removal_goes_to_the_next_cheaper_level() -> None:
    asked = problem(Landscape(0), 3.0)
    path = GreedyRemoval(asked, score_library(asked, None))
    path.run(3.0)
    order = [*(level.get_value("width") for level in WIDTHS), 0]
    for before, after in itertools.pairwise([SPACE.parent, *path.path]):
        changed = [unit for unit in SPACE.levels if before.get_level(unit) != after.get_level(unit)]
        assert len(changed) == 1
        if changed[0].kind is Kind.MLP:
            left = [
                1000 if not level.axes else level.axes[0][1]
                for level in (before.get_level(changed[0]), after.get_level(changed[0]))
            ]
            assert left[1] == next(value for value in order if value < left[0])


def test_a_few_levels_are_scored_and_those_between_interpolated() -> None:
    measured, between = split_levels(SPACE.choices)
    assert [str(choice) for choice in between] == [f"mlp.{layer}:width=0.5" for layer in range(DEPTH)]
    assert len(measured) == len(SPACE.choices) - DEPTH
    landscape = Landscape(1)
    library = score_library(problem(landscape, 5.0), None)
    assert len(landscape.known) == 1 + len(measured)
    for choice in between:  # the loss of one part is the square of what is taken: the interpolation is exact
        assert library[choice] == pytest.approx(landscape.loss(SPACE.decode([choice])))


def test_where_less_loses_less_every_level_is_measured() -> None:
    measured, between = split_levels(SPACE.choices)
    odd = {choice: 1.0 if choice.level == WIDTHS[0] else 0.1 for choice in measured}
    asked: list[Choice] = []

    def measure(choice: Choice) -> float:
        asked.append(choice)
        return 0.5

    assert set(interpolate_losses(odd, between, measure).values()) == {0.5}
    assert asked == between


def test_a_study_has_one_parameter_for_every_unit() -> None:
    assert list(list_distributions(SPACE)["mlp.1"].choices) == ["keep", "width=0.75", "width=0.5", "width=0.25", "drop"]
    chosen = SPACE.decode([Unit(1, Kind.MLP).choose(WIDTHS[1]), Unit(2, Kind.ATTENTION).dropped])
    levels = encode(SPACE, chosen)
    assert (levels["mlp.1"], levels["attention.2"], levels["mlp.0"]) == ("width=0.5", "drop", "keep")
    assert len(levels) == 2 * DEPTH


def test_the_synthetic_latency_adds_up() -> None:
    choices = [Unit(0, Kind.MLP).choose(WIDTHS[1]), Unit(1, Kind.ATTENTION).dropped]
    assert LATENCY.predict(SPACE.decode(choices)) == Prediction(8.0, 8.0, 8.0, 50)
    assert LATENCY.predict_savings(choices) == {choices[0]: 1.0, choices[1]: 1.0}
