"""The choice by measurement on a synthetic device whose true latencies are known, against brute force."""

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from latency_models.fit import CalibratedModel
from latency_models.measurement import Measurement
from latency_models.profile import Profile, Record
from latency_models.shape import ModelShape
from latency_models.workload import Workload
from nas import choice
from nas.certificate import Certificate, judge
from nas.choice import Steps, choose_winner, faster_less_pruned
from nas.quality import Quality
from nas.search import Candidate, Problem, SearchOutcome
from search_spaces import Architecture, Kind, Schedule, Space, Unit
from search_spaces.errors import NoFeasibleCandidate, ProfileMismatch

KEY = {"device": "synthetic", "runtime": "none", "precision": "fp32", "threads": "1", "power_mode": "one"}
HERE = Workload.parse("forward")
DEPTH = 3
UNITS = tuple(Unit(layer, kind) for layer in range(DEPTH) for kind in (Kind.ATTENTION, Kind.MLP))
EVERY = [Architecture(DEPTH, frozenset(units)) for n in range(len(UNITS)) for units in itertools.combinations(UNITS, n)]
PARENT = Architecture.parent(DEPTH)
SHAPE = ModelShape(
    depth=DEPTH, hidden=8, heads=1, kv_heads=1, head_dim=8, intermediate=16, gated=False, outputs=0,
    head_per_token=False, causal=False, stem=8, window=(None,) * DEPTH,
)  # fmt: skip
P90 = 1.2815515655446004


class Device:
    """True medians that units do not explain, samples with noise, and a machine that changes between sittings."""

    def __init__(self, seed: int, noise: float = 0.03, odd: float = 0.06, drift: float = 0.05) -> None:
        self.rng, self.noise, self.drift = random.Random(seed), noise, drift
        rng = random.Random(seed + 1)
        saves = {unit: rng.uniform(0.5, 1.5) for unit in UNITS}
        self.loss = {a: sum(rng.uniform(0.5, 1.5) for _ in a.dropped) + 0.1 * len(a.dropped) ** 2 for a in EVERY}
        self.median = {
            a: (2 + sum(ms for unit, ms in saves.items() if not a.drops(unit))) * math.exp(odd * rng.gauss(0, 1))
            for a in EVERY
        }
        self.confirmed: list[Architecture] = []

    def quality(self, architecture: Architecture) -> Quality:
        return Quality("kl", self.loss[architecture], False, "validation", self.loss[architecture])

    def true_p90(self, architecture: Architecture) -> float:
        return self.median[architecture] * math.exp(P90 * self.noise)

    def samples(self, architecture: Architecture, machine: float, count: int) -> tuple[float, ...]:
        level = self.median[architecture] * machine
        return tuple(level * math.exp(self.noise * self.rng.gauss(0, 1)) for _ in range(count))

    def measure(self, architectures: list[Architecture]) -> Profile:
        return Profile(KEY, "digest", SHAPE, HERE, self.records(architectures))

    def records(self, architectures: list[Architecture], count: int = 100) -> tuple[Record, ...]:
        machine = math.exp(self.drift * self.rng.gauss(0, 1))
        parent = self.samples(PARENT, machine, count)
        others = [Record(a, Measurement(self.samples(a, machine, count), HERE, parent)) for a in architectures]
        return (Record(PARENT, Measurement(parent, HERE, parent)), *others)

    def profile(self) -> Profile:
        chosen = random.Random(5).sample(EVERY[1:], 14)
        return self.measure(chosen)

    def search(self, problem: Problem) -> SearchOutcome:
        candidates = tuple(Candidate(a, self.quality(a), problem.ms(a), "all", 0, True) for a in EVERY)
        ranked = sorted((c for c in candidates if problem.feasible(c.architecture)), key=lambda c: c.quality.loss)
        if not ranked:
            raise NoFeasibleCandidate("none")
        return SearchOutcome(candidates[0], tuple(ranked), candidates, {}, 0, 0.0)

    def certify(self, problem: Problem, winner: Architecture, file: Path) -> Certificate:
        self.confirmed.append(winner)
        parent, record = self.records([winner])
        profiled = problem.latency.predict(PARENT, 50).ms
        return judge(
            target="host", on_target=True, file=file, workload=HERE, percentile=90, budget_ms=BUDGET_SHARE * profiled,
            predicted_ms=1.0, architecture=winner, environment=KEY, versions={},
            measured=(record.measurement, parent.measurement), drift=max(1.0, profiled / parent.measurement.p50),
        )  # fmt: skip


BUDGET_SHARE = 0.7


def chosen(device: Device, folder: Path) -> tuple[Architecture, Architecture, float]:
    """What the loop certifies, what picking by prediction takes, and the true limit of the parent's state."""
    model = CalibratedModel(device.profile())
    file = folder / "model.onnx"
    file.write_bytes(b"")
    budget = BUDGET_SHARE * model.predict(PARENT, 50).ms
    problem = Problem(
        space=Space(DEPTH, UNITS), evaluate=lambda a, items: device.quality(a), latency=model,
        budget_ms=budget, percentile=90, redundancy=None, storage="",
    )  # fmt: skip
    naive = device.search(problem).winner.architecture
    steps = Steps(device.search, device.measure, lambda p, a: device.certify(p, a, file), lambda text: None)
    outcome, _, certificate = choose_winner(steps, problem)
    assert certificate.certified
    assert certificate.architecture == outcome.winner.architecture == device.confirmed[-1]
    # The profile's parent ran on a machine that was faster or slower than nominal by this much.
    return outcome.winner.architecture, naive, budget * device.median[PARENT] / model.predict(PARENT, 50).ms


def test_certified_winners_keep_the_budget_where_picking_by_prediction_breaks_it(tmp_path: Path) -> None:
    broken = naive_broken = 0
    regrets = []
    for seed in range(60):
        device = Device(seed)
        winner, naive, limit = chosen(device, tmp_path)
        broken += device.true_p90(winner) > limit * 1.005  # the parent's own median is known to half a per cent
        naive_broken += device.true_p90(naive) > limit
        best = min(device.loss[a] for a in EVERY if device.true_p90(a) <= limit)
        regrets.append(device.loss[winner] / best - 1)
    assert broken == 0
    assert naive_broken >= 15  # a quarter and more
    assert sorted(regrets)[30] <= 0.10  # the median pays for certainty with a few per cent


def test_contenders_without_end_do_not_keep_a_measured_one_from_being_certified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units explain so little here that everything might be quick enough; one contender is measured at a time."""
    monkeypatch.setattr(choice, "MEASURED", 1)
    for seed in range(6):
        device = Device(seed, odd=0.6)
        rounds: list[list[Architecture]] = []
        device.measure = partial(counted, device.measure, rounds)  # type: ignore[method-assign]
        winner, _, limit = chosen(device, tmp_path)
        assert len(rounds) - 1 <= choice.ROUNDS - choice.LAST  # the first was the profile
        assert device.true_p90(winner) <= limit


def test_where_all_lose_next_to_nothing_hardly_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same devices, every loss a ten-thousandth: what is inside the budget is not worth improving."""
    monkeypatch.setattr(choice, "MEASURED", 1)

    def measured(share: float) -> int:
        rounds: list[list[Architecture]] = []
        for seed in range(6):
            device = Device(seed, odd=0.6)
            device.loss = {architecture: share * loss for architecture, loss in device.loss.items()}
            device.measure = partial(counted, device.measure, rounds)  # type: ignore[method-assign]
            winner, _, limit = chosen(device, tmp_path)
            assert device.true_p90(winner) <= limit
        return len(rounds) - 6  # the first of each was the profile

    assert measured(1e-4) < 0.5 * measured(1.0)


def counted(
    measure: Callable[[list[Architecture]], Profile], rounds: list[list[Architecture]], asked: list[Architecture]
) -> Profile:
    rounds.append(asked)
    return measure(asked)


def test_pruning_that_buys_nothing_is_refused() -> None:
    device = Device(0, noise=0.001, odd=0.0, drift=0.0)
    less, more = PARENT.drop(UNITS[0]), PARENT.drop(UNITS[0], UNITS[1])
    device.median[more] = device.median[less] * 1.02  # what a fusion lost looks like
    profile = device.measure([less, more])
    assert faster_less_pruned(profile, more, EVERY) == less
    assert faster_less_pruned(profile, more, [more]) is None  # the other may not be chosen
    assert faster_less_pruned(profile, less, EVERY) is None
    assert faster_less_pruned(profile, PARENT.drop(UNITS[2]), EVERY) is None  # not measured


def test_a_schedule_that_measures_no_faster_than_a_milder_one_is_refused() -> None:
    """PyramidDrop's published case: fewer tokens, fewer operations, more milliseconds."""
    parent = Measurement((10.0,) * 20, HERE, (10.0,) * 20)

    def reduced(text: str, *gone: Unit) -> Architecture:
        return PARENT.with_tokens(Schedule.parse(text)).drop(*gone)

    def took(ms: float) -> Measurement:
        return Measurement((ms,) * 20, HERE, (10.0,) * 20)

    mild, deep, early, other = reduced("1=0.5"), reduced("1=0.5,2=0.25"), reduced("0=0.5"), reduced("2=0.25")
    both = reduced("0=0.25", UNITS[0])
    times = {mild: 6.0, deep: 6.1, early: 5.0, other: 5.5, both: 6.2}
    profile = Profile(KEY, "digest", SHAPE, HERE, (
        Record(PARENT, parent), *(Record(architecture, took(ms)) for architecture, ms in times.items())
    ))  # fmt: skip
    everything = [PARENT, *times]
    assert faster_less_pruned(profile, deep, [PARENT, mild]) == mild  # half of the tokens from block 1 on, then fewer
    assert faster_less_pruned(profile, deep, [PARENT, early]) is None  # fewer tokens in block 0: not milder
    assert faster_less_pruned(profile, deep, [PARENT, other]) == other  # only its last stage
    assert faster_less_pruned(profile, early, everything) is None  # milder ones are slower
    assert faster_less_pruned(profile, both, [PARENT, early]) == early  # parts and tokens together
    assert faster_less_pruned(profile, mild, everything) is None


def test_nothing_inside_the_budget_is_said_with_the_closest(tmp_path: Path) -> None:
    device = Device(1)
    model = CalibratedModel(device.profile())
    problem = Problem(
        space=Space(DEPTH, UNITS), evaluate=lambda a, items: device.quality(a), latency=model,
        budget_ms=6.0, percentile=90, redundancy=None, storage="",
    )  # fmt: skip
    (tmp_path / "file").write_bytes(b"")

    def refuse(problem: Problem, architecture: Architecture) -> Certificate:
        given = device.certify(problem, architecture, tmp_path / "file")
        return replace(given, verdict=given.verdict.REFUSED, budget_ms=0.95 * (given.bound_ms or 1.0))

    with pytest.raises(NoFeasibleCandidate):
        choose_winner(Steps(device.search, device.measure, refuse, lambda text: None), problem)
    assert len(device.confirmed) >= 2  # it went on after the first refusal
    assert len(set(device.confirmed)) == len(device.confirmed)


def test_what_was_measured_under_another_key_is_never_mixed_in(tmp_path: Path) -> None:
    device = Device(2)
    model = CalibratedModel(device.profile())
    problem = Problem(
        space=Space(DEPTH, UNITS), evaluate=lambda a, items: device.quality(a), latency=model,
        budget_ms=BUDGET_SHARE * model.predict(PARENT, 50).ms, percentile=90, redundancy=None, storage="",
    )  # fmt: skip

    def elsewhere(architectures: list[Architecture]) -> Profile:
        return replace(device.measure(architectures), key=KEY | {"power_mode": "another"})

    steps = Steps(device.search, elsewhere, lambda p, a: device.certify(p, a, tmp_path), lambda text: None)
    with pytest.raises(ProfileMismatch, match="another"):
        choose_winner(steps, problem)


def test_a_parent_that_is_refused_is_not_measured_for_ever(tmp_path: Path) -> None:
    """The budget lies at the parent's own latency and the profile is too short for a bound of its percentile."""
    device = Device(3)
    short = replace(device.profile(), records=tuple(
        replace(r, measurement=Measurement(r.measurement.samples_ms[:20], HERE, r.measurement.sentinel_ms[:20]))
        for r in device.profile().records
    ))  # fmt: skip
    model, asked = CalibratedModel(short), []
    problem = Problem(
        space=Space(DEPTH, UNITS), evaluate=lambda a, items: device.quality(a), latency=model,
        budget_ms=model.predict(PARENT, 90).ms, percentile=90, redundancy=None, storage="",
    )  # fmt: skip
    (tmp_path / "file").write_bytes(b"")

    def certify(problem: Problem, architecture: Architecture) -> Certificate:
        given = device.certify(problem, architecture, tmp_path / "file")
        inside = architecture != PARENT
        return replace(given, verdict=given.verdict.CERTIFIED if inside else given.verdict.REFUSED)

    def measure(architectures: list[Architecture]) -> Profile:
        asked.extend(architectures)
        return device.measure(architectures)

    outcome, _, certificate = choose_winner(Steps(device.search, measure, certify, lambda text: None), problem)
    assert certificate.certified
    assert outcome.winner.architecture != PARENT
    assert PARENT not in asked


def test_a_budget_that_little_reaches_is_searched_at_the_budget_itself(tmp_path: Path) -> None:
    device = Device(4, noise=0.001, drift=0.0)
    device.median = {a: 2.0 + sum(not a.drops(unit) for unit in UNITS) for a in EVERY}
    model = CalibratedModel(device.profile())
    fastest = min(EVERY[1:], key=lambda a: (device.median[a], device.loss[a]))
    problem = Problem(
        space=Space(DEPTH, UNITS), evaluate=lambda a, items: device.quality(a), latency=model,
        budget_ms=device.true_p90(fastest) * 1.02, percentile=90, redundancy=None, storage="",
    )  # fmt: skip
    (tmp_path / "file").write_bytes(b"")

    def certify(problem: Problem, architecture: Architecture) -> Certificate:
        given = device.certify(problem, architecture, tmp_path / "file")
        return replace(given, verdict=given.verdict.CERTIFIED)

    outcome, _, _ = choose_winner(Steps(device.search, device.measure, certify, lambda text: None), problem)
    assert outcome.winner.architecture == fastest
