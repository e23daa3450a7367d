"""The virtual cluster of the scaling benchmark, against hand-computed times and a clock that ticks."""

import random
import sys
from collections import deque
from pathlib import Path

import pytest

from nas.execution.task import Task
from nas.execution.task_scheduling import Shares
from pruning.inference.prefix_cache import list_prefixes
from search_spaces import Architecture, Kind, Unit

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "benchmarks"))

from scaling.virtual import Call, Costs, Job, Piece, play

UNITS = [Unit(layer, kind) for layer in range(12) for kind in (Kind.ATTENTION, Kind.MLP)]


def jobs(seconds: list[float], keep_s: float = 0.0) -> tuple[Job, ...]:
    """Evaluations of so many seconds, which share nothing."""
    parent = Architecture.parent(12)
    architectures = [parent.drop(UNITS[n % 24], UNITS[(n // 24 + n + 1) % 24]) for n in range(len(seconds))]
    pairs = zip(architectures, seconds, strict=True)
    return tuple(Job(Task(a, (0, 4)), (Piece("0:4", s),), keep_s=keep_s) for a, s in pairs)


def ticked(asked: tuple[Job, ...], workers: int) -> int:
    """When a clock that ticks every second sees the last job end, where nothing else costs anything."""
    shares, queues = Shares([job.task for job in asked], workers), [deque[int]() for _ in range(workers)]
    order: list[int] = []

    def give(worker: int) -> None:
        position = shares.take_next(worker)
        if position is not None:
            queues[worker].append(position)
            order.append(position)

    for _ in range(2):
        for worker in range(workers):
            give(worker)
    left, now = [round(job.pieces[0].seconds) for job in asked], 0
    while any(queues):
        now += 1
        for queue in queues:
            if queue:
                left[queue[0]] -= 1
        ended = [worker for worker, queue in enumerate(queues) if queue and left[queue[0]] == 0]
        for worker in sorted(ended, key=lambda worker: order.index(queues[worker][0])):
            queues[worker].popleft()
            give(worker)
    return now


@pytest.mark.parametrize("seed", range(60))
def test_a_call_ends_when_a_ticking_clock_says(seed: int) -> None:
    rng = random.Random(seed)
    asked = jobs([float(rng.randint(1, 9)) for _ in range(rng.randint(1, 40))])
    workers = rng.choice([1, 2, 3, 5, 64])
    played = play([Call("library", 0.0, asked)], workers, Costs())
    total = sum(job.pieces[0].seconds for job in asked)
    assert played.seconds == ticked(asked, workers)
    assert played.busy_s == total
    assert played.seconds == total if workers == 1 else played.seconds >= total / workers


def test_the_driver_is_one_and_thinks_between_the_calls() -> None:
    """By hand: handing out 1, latency 2, evaluating 10, latency 2, collecting 1, keeping 3; 5 before and 7 after."""
    costs = Costs((1,), (2.0,), 4.0)
    calls = [Call("seeds", 5.0, jobs([10.0], keep_s=3.0)), Call("finals", 7.0)]
    played = play(calls, 4, costs)
    assert played.seconds == 5 + 1 + 2 + 10 + 2 + 1 + 3 + 7
    assert played.by_stage == {"seeds": 24.0, "finals": 7.0}
    assert played.driver_s == 5 + 1 + 1 + 3 + 7
    assert played.driver_by_stage == {"seeds": 10.0, "finals": 7.0}


def test_a_serial_driver_bounds_any_number_of_workers() -> None:
    """By hand: 20 are handed out by second 10; the first ended by then, and 20 are collected and kept one by one."""
    asked = jobs([1.0] * 20, keep_s=0.5)
    assert play([Call("library", 0.0, asked)], 20, Costs((1,), (1.0,))).seconds == 10 + 20 * (0.5 + 0.5)
    assert play([Call("library", 0.0, asked)], 20, Costs()).seconds == 1 + 20 * 0.5


def test_serial_costs_grow_with_what_is_on_its_way() -> None:
    costs = Costs((1, 11), (2.0, 22.0))
    assert [costs.halve(count) for count in (1, 6, 11, 50)] == [1.0, 6.0, 11.0, 11.0]


def test_a_worker_resumes_from_what_it_computed_itself() -> None:
    """By hand: 12 blocks of 1 second and a head of 3; the second drops in the last block only."""
    parent = Architecture.parent(12)
    pair = [parent.drop(Unit(10, Kind.MLP)), parent.drop(Unit(11, Kind.MLP))]
    made = tuple(Job(Task(a, (0, 4)), (Piece("0:4", 15.0, 3 / 15, 1),), tuple(list_prefixes(a)), 12) for a in pair)
    assert play([Call("library", 0.0, made)], 1, Costs()).seconds == pytest.approx(15 + 3 + 2)
    assert play([Call("library", 0.0, made)], 2, Costs()).seconds == pytest.approx(15)
    again = [Call("library", 0.0, made), Call("library", 0.0, made)]
    assert play(again, 1, Costs()).seconds == pytest.approx(15 + 5 + 3 + 3)
