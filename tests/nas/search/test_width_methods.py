"""Published methods that narrow: by hand, and against their definitions written down another way."""

import random
import statistics

import pytest

from nas.quality.quality import Quality
from nas.search import Problem, run_search
from nas.search.channels import Channels
from nas.search.methods import WIDTH_METHODS
from nas.testing import SyntheticLatency
from pruning.analysis.redundancy import Redundancy
from search_spaces import Architecture, Choice, Kind, Level, Space, Unit
from search_spaces.errors import NoFeasibleCandidate

DEPTH = 2
M0, M1, A1 = Unit(0, Kind.MLP), Unit(1, Kind.MLP), Unit(1, Kind.ATTENTION)
SPACE = Space(DEPTH, (M0.choose(Level.on("width", 500)), A1.choose(Level.on("heads", 500))))
ALIKE = (0.5, 0.6)
REDUNDANCY = Redundancy("made", "pre_norm", 1, ALIKE, ALIKE, ALIKE, ((1.0,) * 3,) * 3)
# Standardised: -0.5 and 1.5 for M0; M1's are alike but for one. A head of A1 has two inputs.
BY_HAND = (
    Channels(M0, "width", (1.0, 1.0, 1.0, 9.0), 1),
    Channels(M1, "width", (20.0, 40.0, 60.0, 80.0), 1),
    Channels(A1, "heads", (1.0, 3.0, 3.0, 5.0), 2),
)


def evaluate(architecture: Architecture, items: int | None) -> Quality:
    return Quality("kl", float(len(architecture.choices)), False, "validation", 1.0, items=1)


def problem(budget_ms: float, channels: tuple[Channels, ...] = BY_HAND, method: str = "flap") -> Problem:
    latency = SyntheticLatency(DEPTH)  # 1 ms, an attention 1 ms, an MLP 2 ms: 7 ms
    return Problem(SPACE, evaluate, latency, budget_ms, 90, REDUNDANCY, "sqlite://", method=method, channels=channels)


def choose(name: str, budget_ms: float, channels: tuple[Channels, ...] = BY_HAND) -> set[str] | None:
    found = WIDTH_METHODS[name].choose_architecture(problem(budget_ms, channels, name))
    return None if found is None else {str(choice) for choice in found.choices}


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [
        # In standard deviations: M1 -1.16, -0.39, 0.39, 1.16; heads -0.61 and 0.61; M0 -0.5 three times and 1.5.
        (6.5, {"mlp.1:width=0.75"}),
        (6.0, {"mlp.1:width=0.75", "attention.1:heads=0.5"}),
        (5.0, {"mlp.1:width=0.75", "attention.1:heads=0.5", "mlp.0:width=0.25"}),
        (4.0, {"mlp.1:width=0.5", "attention.1:heads=0.5", "mlp.0:width=0.25"}),
    ],
)
def test_flap_by_hand(budget: float, chosen: set[str]) -> None:
    assert choose("flap", budget) == chosen


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [
        (6.9, {"mlp.0:width=0.75", "mlp.1:width=0.75"}),  # three of four neurons, and of two heads both
        (5.5, {"mlp.0:width=0.75", "mlp.1:width=0.75", "attention.1:heads=0.5"}),
        (5.4, {"mlp.0:width=0.5", "mlp.1:width=0.5", "attention.1:heads=0.5"}),
        (3.5, {"mlp.0:width=0.25", "mlp.1:width=0.25", "attention.1:heads=0.5"}),
    ],
)
def test_wanda_sp_cuts_alike(budget: float, chosen: set[str]) -> None:
    assert choose("wanda-sp", budget) == chosen


@pytest.mark.parametrize("seed", range(3))
def test_flap_s_threshold_is_the_lowest_that_meets_the_budget(seed: int) -> None:
    rng = random.Random(seed)
    channels = tuple(
        Channels(unit, axis, tuple(rng.expovariate(1) for _ in range(count * size)), size)
        for unit, axis, count, size in ((M0, "width", 16, 1), (M1, "width", 16, 1), (A1, "heads", 4, 3))
    )
    means = {}
    for each in channels:
        middle, spread = statistics.mean(each.scores), statistics.stdev(each.scores)
        for group in range(each.groups):
            own = each.scores[group * each.size : (group + 1) * each.size]
            means[each.unit, group] = statistics.mean((score - middle) / spread for score in own)
    asked = problem(4.5, channels)
    gone: set[tuple[Unit, int]] = set()
    for place in sorted(means, key=lambda each: means[each]):  # one after another until it is met
        gone.add(place)
        kept = {each: each.keep(each.groups - sum(unit == each.unit for unit, _ in gone)) for each in channels}
        architecture = SPACE.decode(choice for choice in kept.values() if choice is not None)
        if asked.is_feasible(architecture):
            break
    assert WIDTH_METHODS["flap"].choose_architecture(asked) == architecture


@pytest.mark.parametrize("name", WIDTH_METHODS)
def test_what_cannot_be_met_is_said(name: str) -> None:
    assert choose(name, 2.0) is None
    assert choose(name, 2.0, ()) is None
    with pytest.raises(NoFeasibleCandidate, match=f"{name} cannot get there"):
        run_search(problem(2.0, method=name))


def test_a_method_s_own_choice_is_the_winner() -> None:
    outcome = run_search(problem(6.5))
    assert outcome.winner.architecture.choices == {Choice.parse("mlp.1:width=0.75")}
    assert outcome.winner.quality.loss == 1.0
