"""Token schedules in the search, alone and beside parts, on synthetic problems whose optimum brute force knows.

Four blocks; a stage may be before each but the first. Every block takes as long as the share of tokens it works on.
"""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from families import mark_rest_slow
from test_search import Redundancy

from latency_models.calibrated import CalibratedModel
from latency_models.marginal import compute_marginal_values
from latency_models.measurement import Measurement
from latency_models.profile import Profile, Record
from latency_models.shape import ModelShape
from latency_models.workload import Phase, Workload
from nas.certification.selection import SelectionCallbacks, choose_winner
from nas.quality.quality import Quality
from nas.request.quantities import Budget
from nas.results.certificate import Certificate, judge
from nas.search import Problem, run_search
from nas.search.greedy_removal import GreedyRemoval
from nas.search.knobs import Knobs, list_distributions
from nas.search.levels import encode
from nas.search.library import score_library
from nas.search.limit import Limit
from nas.search.solve import solve
from nas.search.surrogate import ALIKE, REACH, Surrogate, _build_design, _find_neighbourhood
from nas.testing import SyntheticLatency
from search_spaces import Architecture, Encoding, Kind, Reduction, Schedule, Scorer, Space, Unit
from search_spaces.architecture import make_stage_choice
from search_spaces.errors import ArchitectureError
from search_spaces.schedule import Stage
from search_spaces.space import is_empty

DEPTH = 4
PARTS = tuple(Unit(layer, kind).dropped for layer in range(DEPTH) for kind in (Kind.ATTENTION, Kind.MLP))
REDUCTION = Reduction(Scorer.KEYS)
RATIOS = (0.75, 0.5, 0.25)
JOINT = Space.dropping(DEPTH, PARTS).allow_tokens(REDUCTION, range(1, DEPTH), RATIOS)
TOKENS = Space.dropping(DEPTH, JOINT.steps, reduction=REDUCTION)
SPACES = {"joint": JOINT, "tokens": TOKENS, "structure": Space.dropping(DEPTH, PARTS)}


class Landscape:
    """Parts with pair terms; a schedule costs by block and by what is missing there, less where parts are gone."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.single = {part: float(value) for part, value in zip(PARTS, rng.uniform(0.1, 1, len(PARTS)), strict=True)}
        self.pair = {pair: float(rng.uniform(-0.1, 0.3)) for pair in itertools.combinations(PARTS, 2)}
        self.early = np.sort(rng.uniform(0.2, 1.2, DEPTH))[::-1]
        self.bend, self.mixed = float(rng.uniform(1.2, 2.5)), float(rng.uniform(-0.3, 0.3))
        self.known: dict[tuple[Architecture, int | None], Quality] = {}

    def loss(self, architecture: Architecture) -> float:
        gone = [unit for unit in PARTS if architecture.drops(unit)]
        parts = sum(self.single[u] for u in gone) + sum(self.pair[p] for p in itertools.combinations(gone, 2))
        missing = 1 - np.array(architecture.tokens.compute_shares(DEPTH))
        tokens = float(self.early @ missing**self.bend)
        parts = max(parts, 0.001 * len(gone))
        return parts + tokens + self.mixed * (parts * tokens) ** 0.5

    def __call__(self, architecture: Architecture, items: int | None) -> Quality:
        assert architecture.reduction in (None, REDUCTION), "tokens are chosen as the space says"
        if (architecture, items) not in self.known:
            loss = self.loss(architecture)
            self.known[architecture, items] = Quality("kl", loss, False, "validation", loss, items=items or 99)
        return self.known[architecture, items]


def problem(
    space: Space, landscape: Landscape, budget: float, latency: SyntheticLatency | None = None, **more
) -> Problem:
    similar = tuple(0.6 + 0.1 * layer for layer in range(DEPTH))
    redundancy = Redundancy("made", "pre_norm", 1, similar, similar, similar, ((1.0,) * (DEPTH + 1),) * (DEPTH + 1))
    settings = {"trials": 60, "patience": 12, "storage": "sqlite://"}
    return Problem(space, landscape, latency or SyntheticLatency(DEPTH), budget, 90, redundancy, **{**settings, **more})


def every(space: Space) -> list[Architecture]:
    """Everything a space holds: all sets of parts with all rows of shares that never rise."""
    sets = itertools.chain.from_iterable(
        itertools.combinations(space.structure, n) for n in range(len(space.structure) + 1)
    )
    levels = [0, 1000, 750, 500, 250] if len(space.structure) < len(space.choices) else [0]
    shares = [s for s in itertools.product(levels[1:] or [1000], repeat=DEPTH - 1) if list(s) == sorted(s)[::-1]]
    steps = [{make_stage_choice(Stage(block, s)) for block, s in enumerate(row, 1) if s < 1000} for row in shares]
    found = {space.decode({*parts, *step}) for parts in sets for step in steps}
    return [architecture for architecture in found if not is_empty(architecture)]


@pytest.fixture(scope="module")
def everything() -> dict[str, list[Architecture]]:
    return {name: every(space) for name, space in SPACES.items()}


def test_there_are_as_many_as_there_should_be(everything) -> None:
    assert {name: len(found) for name, found in everything.items()} == {
        "structure": 2**8 - 1, "tokens": 20, "joint": 20 * (2**8 - 1),
    }  # fmt: skip


@pytest.mark.parametrize("name", SPACES)
def test_weighing_rows_at_once_is_weighing_their_features(name: str) -> None:
    units, rng = SPACES[name].choices, np.random.default_rng(0)
    design = _build_design(units, tuple(rng.uniform(0, 1, len(units))), 0.1)
    gone = design.encode_dropped([SPACES[name].sample(random.Random(seed), 0.4) for seed in range(40)])
    features = design.compute_features(gone)
    weights = rng.normal(size=features.shape[1])
    assert design.weight(weights)(gone) == pytest.approx(features @ weights, abs=1e-12)
    rows = design.spread(gone)
    scale = np.where(design.encoding.cumulative, 2 / len(RATIOS), 1.0)
    apart = [[np.abs(scale * (one - other)).sum() for other in gone] for one in gone]  # units, stages counted less
    assert _find_neighbourhood(rows, rows) == pytest.approx(ALIKE * np.exp(-np.array(apart) / REACH), abs=1e-12)


@pytest.mark.parametrize(
    ("seed", "name"), mark_rest_slow(itertools.product(range(3), SPACES), itertools.product([0], SPACES))
)
def test_one_engine_finds_the_optimum_of_parts_of_tokens_and_of_both(name: str, seed: int, everything) -> None:
    landscape, latency = Landscape(seed), SyntheticLatency(DEPTH, stage=0.1)
    budget = 0.62 * latency.predict(Architecture(DEPTH)).ms
    best = min(landscape.loss(a) for a in everything[name] if latency.predict(a).ms <= budget)
    outcome = run_search(problem(SPACES[name], landscape, budget, latency))
    assert outcome.winner.predicted_ms <= budget
    assert outcome.winner.quality.loss <= 1.03 * best
    assert len(landscape.known) <= 100


def test_both_together_beat_either(everything) -> None:
    """What the joint search is for, where tokens and parts are worth as much."""
    landscape, latency = Landscape(0), SyntheticLatency(DEPTH)
    landscape.early *= 5
    budget = 0.5 * latency.predict(Architecture(DEPTH)).ms
    found = {name: run_search(problem(space, landscape, budget)).winner.quality.loss for name, space in SPACES.items()}
    assert found["joint"] < min(found["tokens"], found["structure"])


@pytest.mark.parametrize("seed", range(4))
def test_the_exact_solve_is_exact_where_savings_overlap(seed: int, everything) -> None:
    """Its milliseconds are the device's own: less is saved where a part works on fewer tokens."""
    rng, latency = random.Random(seed), SyntheticLatency(DEPTH)
    asked = problem(JOINT, Landscape(seed), 1.0)
    single = {unit: rng.uniform(0.1, 1) for unit in PARTS}
    early = [rng.uniform(0.1, 1) for _ in range(DEPTH)]

    def cost(architecture: Architecture) -> float:
        tokens = sum(
            each * (1 - s) ** 2 for each, s in zip(early, architecture.tokens.compute_shares(DEPTH), strict=True)
        )
        return tokens + sum(single[unit] for unit in PARTS if architecture.drops(unit))

    library = compute_marginal_values({unit: cost(JOINT.decode({unit})) for unit in JOINT.choices})
    needed = 0.45 * latency.predict(Architecture(DEPTH)).ms
    fits = [a for a in everything["joint"] if 13 - latency.predict(a).ms >= needed]
    found = solve(JOINT, library, asked.estimate_savings(), needed, solutions=3)
    assert cost(found[0]) == pytest.approx(min(map(cost, fits)), abs=1e-6)
    for architecture in found:
        assert 13 - latency.predict(architecture).ms >= needed - 1e-6


def test_the_exact_solve_takes_along_what_a_step_implies() -> None:
    """The step costs nothing by itself and saves all; those that it implies are what is paid for."""
    last = make_stage_choice(Stage(1, 250))
    loss = {unit: 0.0 if unit == last else 0.1 for unit in TOKENS.choices}
    saves = {unit: 1.0 if unit == last else 0.0 for unit in TOKENS.choices}
    assert solve(TOKENS, loss, saves, 0.9)[0] == TOKENS.decode({last})
    cheaper = {**loss, last: -0.2}  # less than nothing, beside what it implies
    assert solve(TOKENS, cheaper, saves, 0.9)[0] == TOKENS.decode({last})
    assert solve(TOKENS, cheaper, saves, -1.0)[0] == Architecture(DEPTH)  # 0.6 with those it implies


def test_savings_are_the_device_s(everything) -> None:
    asked = problem(JOINT, Landscape(0), 1.0)
    savings = asked.estimate_savings()
    some = random.Random(0).sample(sorted(everything["joint"], key=lambda a: a.digest), 300)
    expected = [13 - asked.predict_ms(architecture) for architecture in some]
    assert savings.compute(savings.encoding.encode_rows(some)) == pytest.approx(expected, abs=1e-8)


def test_rows_and_back(everything) -> None:
    encoding = Encoding(JOINT.choices)
    some = random.Random(1).sample(sorted(everything["joint"], key=lambda a: a.digest), 300)
    rows = encoding.encode_rows(some)
    assert [JOINT.decode(chosen) for chosen in encoding.decode(rows)] == some
    for row, architecture in zip(rows, some, strict=True):
        assert row.tolist() == [architecture.drops(unit) for unit in JOINT.choices]


def test_a_study_s_parameters_and_back(everything) -> None:
    for architecture in random.Random(2).sample(sorted(everything["joint"], key=lambda a: a.digest), 300):
        levels = encode(JOINT, architecture)
        parts = {unit.dropped for unit in JOINT.levels if levels[str(unit)] == "drop"}
        assert JOINT.decode(parts).structure == architecture.structure
        shares = architecture.tokens.compute_shares(DEPTH)
        assert [float(levels[f"tokens.{block}"]) for block in (1, 2, 3)] == list(shares[1:])
    assert len(encode(JOINT, JOINT.parent)) == len(PARTS) + 3


def test_the_library_sums_to_the_loss_of_single_stages() -> None:
    landscape = Landscape(3)
    library = score_library(problem(JOINT, landscape, 9.0), None)
    for unit in JOINT.choices:
        architecture = JOINT.decode({unit})
        total = sum(loss for other, loss in library.items() if architecture.drops(other))
        assert total == pytest.approx(landscape.loss(architecture))


def test_sums_are_never_negative_however_the_stages_were_scored() -> None:
    """Where noise lets a smaller share seem better, it counts as what it implies."""
    rng = np.random.default_rng(5)

    def noisy(architecture: Architecture, items: int | None) -> Quality:
        loss = float(rng.uniform(0, 1))
        return Quality("kl", loss, False, "validation", loss, items=1)

    library = score_library(problem(TOKENS, noisy, 9.0), None)
    for architecture in every(TOKENS):
        assert sum(loss for unit, loss in library.items() if architecture.drops(unit)) >= -1e-12


def test_the_way_down_takes_steps_and_parts_and_meets_every_budget() -> None:
    asked = problem(JOINT, Landscape(1), 4.0)
    removal = GreedyRemoval(asked, score_library(asked, None))
    removal.run(4.0)
    assert any(a.tokens.stages for a in removal.path)
    assert any(a.structure.choices for a in removal.path)
    for budget in (12.0, 9.0, 7.5, 6.0, 4.0):
        found = removal.find_first_within_budget(budget)
        assert found is not None
        assert asked.predict_ms(found) <= budget
        outer = [unit for unit in found.choices if unit.kind is Kind.TOKENS]
        gone = {unit for unit in JOINT.choices if found.drops(unit)}
        assert all(asked.predict_ms(JOINT.decode(gone - {unit})) > budget for unit in outer)


def test_a_single_stage_is_expected_to_lose_what_it_lost() -> None:
    landscape = Landscape(2)
    library = score_library(problem(JOINT, landscape, 9.0), None)
    alone = [JOINT.decode({unit}) for unit in JOINT.choices]
    expected = Surrogate(JOINT.choices, library).predict(alone)
    assert expected == pytest.approx([landscape.loss(a) for a in alone], abs=1e-6)


def test_the_surrogate_learns_what_schedules_and_parts_do_together(everything) -> None:
    landscape = Landscape(0)
    landscape.mixed = 0.8
    library = score_library(problem(JOINT, landscape, 9.0), None)
    order = random.Random(0).sample(sorted(set(everything["joint"]) - {JOINT.parent}, key=lambda a: a.digest), 300)
    fitted = Surrogate.fit(JOINT.choices, library, [(a, landscape.loss(a)) for a in order[:60]])
    plain, truth = Surrogate(JOINT.choices, library), np.array([landscape.loss(a) for a in order[60:]])
    errors = [np.abs(np.log(s.predict(order[60:]) / truth)).mean() for s in (fitted, plain)]
    assert errors[0] < 0.5 * errors[1]


def test_a_limit_on_parameters_ignores_tokens() -> None:
    limit = Limit(
        "parameters", 12.0, 9.0, dict.fromkeys(PARTS, 1.5) | {Unit(n, Kind.BLOCK).dropped: 3.0 for n in range(4)}
    )
    outcome = run_search(problem(JOINT, Landscape(0), 8.0, limits=(limit,), trials=30))
    assert limit.is_met(outcome.winner.architecture)
    assert limit.count(JOINT.decode({make_stage_choice(Stage(1, 250))})) == 12.0


def test_the_knob_of_tokens_scales_sums() -> None:
    assert "tokens" in list_distributions(problem(JOINT, Landscape(0), 9.0))
    assert "tokens" not in list_distributions(problem(TOKENS, Landscape(0), 9.0))
    library = {unit: 0.1 + 0.01 * unit.layer for unit in JOINT.choices}
    reweighted = Knobs(1.0, 1.0, 0.5, 1.0, tokens=3.0).reweight(library, DEPTH)
    assert all(reweighted[unit] == pytest.approx(3 * library[unit]) for unit in TOKENS.choices)


FIXED = Schedule.parse("1=0.5,2=0.25", REDUCTION)


def test_a_fixed_schedule_is_in_every_architecture_of_a_space() -> None:
    space = Space.dropping(DEPTH, PARTS, fixed=FIXED)
    assert space.start == Architecture(DEPTH).replace_tokens(FIXED)
    assert space.parent == Architecture(DEPTH)
    some = space.decode({PARTS[0], PARTS[3]})
    assert some.tokens == FIXED
    assert space.contains(some)
    assert not space.contains(some.structure)
    assert not space.contains(
        Space.dropping(DEPTH, PARTS).decode({PARTS[0]}).replace_tokens(Schedule.parse("1=0.5", REDUCTION))
    )
    with pytest.raises(ArchitectureError, match="leave one out"):
        Space.dropping(DEPTH, JOINT.choices, fixed=FIXED)


def test_parts_are_searched_under_a_fixed_schedule(everything) -> None:
    landscape, space = Landscape(2), Space.dropping(DEPTH, PARTS, fixed=FIXED)
    budget = 0.6 * SyntheticLatency(DEPTH).predict(space.start).ms
    fits = [a.replace_tokens(FIXED) for a in everything["structure"]]
    best = min(landscape.loss(a) for a in fits if SyntheticLatency(DEPTH).predict(a).ms <= budget)
    outcome = run_search(problem(space, landscape, budget))
    assert outcome.winner.architecture.tokens == FIXED
    assert outcome.winner.quality.loss <= 1.03 * best
    assert outcome.parent.architecture == Architecture(DEPTH)


def test_a_fixed_schedule_that_is_fast_enough_is_the_winner(tmp_path: Path) -> None:
    space = Space.dropping(DEPTH, PARTS, fixed=FIXED)
    assert run_search(problem(space, Landscape(0), 12.0)).winner.architecture == space.start


def test_a_fixed_schedule_that_meets_every_budget_of_a_front_is_the_winner() -> None:
    space = Space.dropping(DEPTH, PARTS, fixed=FIXED)
    assert run_search(problem(space, Landscape(0), 12.0, front=(12.0, 11.9))).winner.architecture == space.start


def test_what_is_certified_where_a_fixed_schedule_is_fast_enough_has_the_schedule(tmp_path: Path) -> None:
    """Not the parent, which meets the budget too."""
    space, workload, certified = Space.dropping(DEPTH, PARTS, fixed=FIXED), Workload(Phase.FORWARD, 1, 64), []
    shape = ModelShape(DEPTH, 8, 1, 1, 8, 16, False, 0, False, False, 8, (None,) * DEPTH)

    def took(ms: float) -> Measurement:
        return Measurement((ms,) * 20, workload, (10.0,) * 20)

    times = {space.parent: 10.0, space.start: 5.0, space.start.drop(PARTS[0]): 4.5, space.start.drop(PARTS[1]): 4.0}
    records = tuple(Record(architecture, took(ms)) for architecture, ms in times.items())
    model = CalibratedModel(Profile({"device": "made"}, "digest", shape, workload, records))

    def certify(_: Problem, architecture: Architecture, looks: int) -> Certificate:
        certified.append(architecture)
        return judge(
            target="host", on_target=True, file=Path(__file__), workload=workload, percentile=50, budget_ms=50.0,
            predicted_ms=5.0, architecture=architecture, environment={}, versions={}, measured=(took(5.0), took(10.0)),
        )  # fmt: skip

    def never(*_: object) -> None:
        raise AssertionError("nothing is left to measure")

    callbacks = SelectionCallbacks(
        Budget.parse("50ms"), run_search, never, certify, never, never, never, lambda text: None
    )
    outcome, _, certificate = choose_winner(callbacks, problem(space, Landscape(0), 50.0, model))
    assert certificate.certified
    assert certified == [outcome.winner.architecture] == [space.start]
