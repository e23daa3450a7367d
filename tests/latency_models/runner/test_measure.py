"""The protocol on a machine whose clock, latencies and drift are known."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import pytest

from latency_models.runner.failure import MeasuringFailed
from latency_models.runner.measure import (
    FEWEST_ROUNDS,
    MAX_WARM_UPS,
    MIN_WARM_UPS,
    Clock,
    Samples,
    measure,
    warm_up,
)

LATENCIES = {"parent": 10.0, **{f"c{i}": 1.0 + 0.7 * i for i in range(12)}}


@dataclass
class Machine:
    """Runs take their latency times a drift; `events` happen before the run of that number."""

    latencies: dict[str, float]
    drift: Callable[[float], float] = lambda seconds: 1.0
    events: dict[int, Callable[["Machine"], None]] = field(default_factory=dict)
    ticks_ns: int = 10**12
    wall_ns: int = 10**18
    runs: list[str] = field(default_factory=list)

    def calls(self) -> dict[str, Callable[[], None]]:
        return {name: lambda name=name: self.run(name) for name in self.latencies}

    def run(self, name: str) -> None:
        self.events.get(len(self.runs), lambda machine: None)(self)
        self.runs.append(name)
        took = round(1e6 * self.latencies[name] * self.drift(self.ticks_ns / 1e9))
        self.ticks_ns += took
        self.wall_ns += took

    def measured(self, seconds: float = 5.0, min_rounds: int = 3, seed: int = 0, **options) -> dict[str, Samples]:
        clock = Clock(lambda: self.ticks_ns, lambda: self.wall_ns)
        return measure(
            self.calls(),
            sentinel="parent",
            seconds=seconds,
            min_rounds=min_rounds,
            seed=seed,
            clock=clock,
            **options,
        )


def rounds_of(machine: Machine) -> list[list[str]]:
    """The rounds: warm-up runs every candidate at least ten times in a row, so it ends before the last such row."""
    names = machine.runs
    rows, start = [], 0
    for position in range(1, len(names) + 1):
        if position == len(names) or names[position] != names[start]:
            rows.append((names[start], position - start))
            start = position
    timed = [(name, count) for name, count in rows if count <= 4]  # a sentinel ends one round and begins the next
    flat = [name for name, count in timed for _ in range(count // 2)]
    assert all(count % 2 == 0 for _, count in timed)  # one run that does not count, one that does
    size = len(machine.latencies) - 1 + 1 + math.ceil((len(machine.latencies) - 1) / 5)
    return [flat[first : first + size] for first in range(0, len(flat), size)]


def test_known_ratios_are_recovered_under_drift() -> None:
    def drift(seconds: float) -> float:
        return 1.3 + 0.2 * math.sin(seconds / 1.7) + 0.01 * (seconds - 1000)

    taken = Machine(LATENCIES, drift).measured(seconds=20)
    for name, ms in LATENCIES.items():
        pairs = zip(taken[name].samples_ms, taken[name].sentinel_ms, strict=True)
        assert median(own / sentinel for own, sentinel in pairs) == pytest.approx(ms / 10, rel=0.003), name
    assert max(taken["c3"].samples_ms) / min(taken["c3"].samples_ms) > 1.2  # the drift was really there
    assert taken["parent"].samples_ms == taken["parent"].sentinel_ms


def test_a_sentinel_starts_and_ends_every_round_and_at_most_five_run_between() -> None:
    machine = Machine(LATENCIES)
    taken = machine.measured(seconds=0.0, min_rounds=6)
    rounds = rounds_of(machine)
    assert len(rounds) == 6
    for run in rounds:
        assert run[0] == run[-1] == "parent"
        assert sorted(name for name in run if name != "parent") == sorted(set(LATENCIES) - {"parent"})
        positions = [position for position, name in enumerate(run) if name == "parent"]
        assert max(after - before for before, after in itertools.pairwise(positions)) <= 6
    assert len({tuple(run) for run in rounds}) == 6
    assert {name: len(samples.samples_ms) for name, samples in taken.items()} == {
        name: 24 if name == "parent" else 6 for name in LATENCIES
    }


def test_the_order_is_that_of_the_seed() -> None:
    machines = [Machine(LATENCIES) for _ in range(3)]
    for machine, seed in zip(machines, (1, 1, 2), strict=True):
        machine.measured(seconds=0.0, seed=seed)
    assert machines[0].runs == machines[1].runs != machines[2].runs


def test_time_is_spent_and_reported() -> None:
    machine, shares = Machine({"parent": 10.0, "a": 20.0}), []
    taken = machine.measured(seconds=4.0, min_rounds=1, on_round=shares.append)
    assert len(taken["a"].samples_ms) == 50  # a round: twice 10 + 20 + 10 ms
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(0.02)
    assert shares[-1] == 1.0


def test_a_busy_machine_costs_no_more_than_the_time_limit() -> None:
    """Two hundred rounds are wanted, and each takes ten times as long as usual: 0.8 s."""
    machine, shares = Machine({"parent": 10.0, "a": 20.0}, lambda seconds: 10.0), []
    taken = machine.measured(seconds=4.0, min_rounds=200, limit_s=8.0, on_round=shares.append)
    assert len(taken["a"].samples_ms) == 10
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert len(machine.measured(seconds=4.0, min_rounds=200, limit_s=0.1)["a"].samples_ms) == FEWEST_ROUNDS


def test_one_candidate_alone_is_its_own_sentinel() -> None:
    assert Machine({"parent": 10.0}).measured(seconds=0.0, min_rounds=7)["parent"].samples_ms == [10.0] * 7


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_warm_up_ends_where_the_latency_is_flat(share: float) -> None:
    count, machine = 0, Machine({"parent": 1.0})

    def cooling() -> None:
        nonlocal count
        machine.latencies["parent"] = 1.0 + 5 * math.exp(-share * count)
        count += 1
        machine.run("parent")

    clock = Clock(lambda: machine.ticks_ns, lambda: machine.wall_ns)
    assert warm_up("parent", cooling, 0.0, clock) == count
    assert MIN_WARM_UPS < count <= MAX_WARM_UPS
    if count < MAX_WARM_UPS:
        assert machine.latencies["parent"] < 1.1


def test_warm_up_lasts_its_seconds_and_ends_whatever_the_clock_or_the_candidate_do() -> None:
    steady = Machine({"parent": 1.0})
    clock = Clock(lambda: steady.ticks_ns, lambda: steady.wall_ns)
    assert warm_up("parent", steady.calls()["parent"], 0.5, clock) == 500
    doubling = Machine({"parent": 1.0}, drift=lambda seconds: max(1.0, (seconds - 1000) * 1000))
    clock = Clock(lambda: doubling.ticks_ns, lambda: doubling.wall_ns)
    assert warm_up("parent", doubling.calls()["parent"], 0.0, clock) == MAX_WARM_UPS
    still = Clock(lambda: 5, lambda: 5)
    assert warm_up("parent", lambda: None, 0.001, still) == 1000


def sleep(machine: Machine) -> None:
    machine.wall_ns += 3600 * 10**9


def leap(machine: Machine) -> None:
    machine.ticks_ns += 3600 * 10**9


def fall_back(machine: Machine) -> None:
    machine.ticks_ns -= 10 * 10**9


@pytest.mark.parametrize("jump", [sleep, leap, fall_back])
def test_a_round_in_which_a_clock_jumps_is_repeated(jump: Callable[[Machine], None]) -> None:
    latencies = {"parent": 10.0, "a": 20.0}
    warm = 2 * MIN_WARM_UPS
    machine = Machine(latencies, events={warm + 6 * 2 + 3: jump})  # in the third round, in the timed run of `a`
    taken = machine.measured(seconds=0.0, min_rounds=5)
    assert taken["a"].samples_ms == [20.0] * 5
    assert taken["a"].sentinel_ms == taken["parent"].samples_ms[::2] == [10.0] * 5
    assert len(machine.runs) == warm + 6 * 6  # one round more


def test_a_clock_that_keeps_jumping_is_given_up() -> None:
    machine = Machine({"parent": 10.0}, events=dict.fromkeys(range(1000), sleep))
    with pytest.raises(MeasuringFailed, match="the clock jumped in 5 rounds one after another; stop what"):
        machine.measured()


@pytest.mark.parametrize("number", [0, 25, 60])
def test_a_candidate_that_fails_is_named(number: int) -> None:
    def vanish(machine: Machine) -> None:
        raise RuntimeError("CUDA error 719\nmore of it")

    machine = Machine({"parent": 10.0}, events={number: vanish})
    with pytest.raises(MeasuringFailed, match=r"^parent cannot be run \(CUDA error 719\)$"):
        machine.measured(min_rounds=40)


def test_nothing_that_could_give_no_samples_is_measured() -> None:
    for calls, rounds in (({}, 3), ({"other": lambda: None}, 3), ({"parent": lambda: None}, 0)):
        with pytest.raises(MeasuringFailed, match="at least one round"):
            measure(calls, sentinel="parent", seconds=0.0, min_rounds=rounds)
