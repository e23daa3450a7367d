"""The protocol by which every runtime is measured: warm, interleaved, a sentinel around every few samples."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from .failure import MeasuringFailed, get_first_line

SENTINEL_EVERY = 5  # candidates between two runs of the sentinel, at most
MIN_WARM_UPS = 10
MAX_WARM_UPS = 20  # of a candidate that never gets flat; a fast one is given three times its warm-up time
WARM_UP_S = 1.0
WARM_UP_SHARE = 0.1  # of a short measurement, all candidates together
FLAT = 0.02  # two medians of `_WINDOW` runs that differ by less
FEWEST_ROUNDS = 3  # whatever the time limit is
VOID_ROUNDS = 5  # one after another, then the clock is given up
_WINDOW = 5
_MIN_NS = 1_000
_JUMP_NS, _JUMP_SHARE = 250_000_000, 0.01  # wall clocks are slewed by less than this

Call = Callable[[], object]


@dataclass(frozen=True)
class Clock:
    """Nanoseconds that only rise while the machine runs, and nanoseconds of the day, which go on in its sleep."""

    ticks: Callable[[], int] = time.perf_counter_ns
    wall: Callable[[], int] = time.time_ns


@dataclass
class Samples:
    """Latencies of one candidate in ms, in order, and of the sentinel around each of them."""

    samples_ms: list[float] = field(default_factory=list)
    sentinel_ms: list[float] = field(default_factory=list)


def measure(
    calls: Mapping[str, Call],
    *,
    sentinel: str,
    seconds: float,
    min_rounds: int,
    limit_s: float | None = None,
    seed: int = 0,
    clock: Clock = Clock(),
    on_round: Callable[[float], None] = lambda share: None,
) -> dict[str, Samples]:
    """Measure callables side by side until `seconds` have passed in rounds that count.

    Args:
        calls: name to one complete, synchronised inference.
        sentinel: the name of the one that is run before and after every few others. Every run of it is a sample.
        seconds: time to spend after warm-up; at least `min_rounds` rounds are made.
        limit_s: after so long no further round is begun, but for the first three: on a busy machine `min_rounds`
            may take many times as long as they should. None: no limit.
        seed: of the order.
        on_round: called after each round with the share that is done.

    Raises:
        MeasuringFailed: a candidate fails, or the clock jumps in round after round.
    """
    if sentinel not in calls or min_rounds < 1:
        raise MeasuringFailed(f"measuring needs the sentinel {sentinel!r} among {sorted(calls)} and at least one round")
    for name, call in calls.items():
        warm_up(name, call, min(WARM_UP_S, WARM_UP_SHARE * seconds / len(calls)), clock)
    rng, others = random.Random(seed), sorted(set(calls) - {sentinel})
    taken = {name: Samples() for name in calls}
    spent_s, rounds, voided = 0.0, 0, 0
    first = clock.ticks()
    while rounds < min_rounds or spent_s < seconds:
        began = clock.ticks()
        if limit_s is not None and rounds >= FEWEST_ROUNDS and (began - first) / 1e9 >= limit_s:
            break
        runs = _round(_build_schedule(rng.sample(others, len(others)), sentinel), calls, clock)
        if runs is None:
            voided += 1
            if voided == VOID_ROUNDS:
                raise MeasuringFailed(
                    f"the clock jumped in {voided} rounds one after another; stop what sets it or puts the machine to "
                    "sleep, then run again"
                )
            continue
        for name, own, around in _pair_samples(runs, sentinel):
            taken[name].samples_ms.append(own)
            taken[name].sentinel_ms.append(around)
        spent_s, rounds, voided = spent_s + (clock.ticks() - began) / 1e9, rounds + 1, 0
        limited = 0.0 if limit_s is None else spent_s / limit_s
        on_round(min(max(min(rounds / min_rounds, spent_s / seconds if seconds else 1.0), limited), 1.0))
    return taken


def warm_up(name: str, call: Call, seconds: float, clock: Clock) -> int:
    """Run until the rolling median is flat, at least 10 times and `seconds` long; how often it was run.

    Raises:
        MeasuringFailed: it cannot be run.
    """
    runs: list[int] = []
    spent_s, flat = 0.0, False
    while len(runs) < MIN_WARM_UPS or spent_s < seconds or not flat:
        runs.append(_time_ns(name, call, clock))
        spent_s += max(runs[-1], _MIN_NS) / 1e9  # a clock that stands still must not keep it here
        before, now = median(runs[-2 * _WINDOW : -_WINDOW] or [0]), median(runs[-_WINDOW:])
        overdue = len(runs) >= MAX_WARM_UPS and spent_s >= 3 * seconds
        flat = abs(now - before) <= FLAT * before or overdue
    return len(runs)


def _build_schedule(order: Sequence[str], sentinel: str) -> list[str]:
    """The order with the sentinel at the start, after every few, and at the end."""
    schedule = [sentinel]
    for first in range(0, len(order), SENTINEL_EVERY):
        schedule += [*order[first : first + SENTINEL_EVERY], sentinel]
    return schedule


def _round(schedule: Sequence[str], calls: Mapping[str, Call], clock: Clock) -> list[tuple[str, float]] | None:
    """(name, ms) of each run in order; None where the clocks disagree on how long it all took.

    Each run follows one that does not count: in use a model finds its own weights in the caches, not those of the
    candidate before it. (22 MB of weights on a server CPU: without, a candidate of 0.44 of the parent reads 0.51.)
    """
    ticks, wall = clock.ticks(), clock.wall()
    runs = []
    for name in schedule:
        _time_ns(name, calls[name], clock)
        runs.append((name, _time_ns(name, calls[name], clock) / 1e6))
    ticked, walled = clock.ticks() - ticks, clock.wall() - wall
    jumped = abs(ticked - walled) > max(_JUMP_NS, _JUMP_SHARE * ticked)
    return None if jumped or min(ms for _, ms in runs) <= 0 else runs


def _pair_samples(runs: Sequence[tuple[str, float]], sentinel: str) -> Iterator[tuple[str, float, float]]:
    """(name, own ms, ms of the sentinel around it): the mean of the nearest before and after; its own for itself."""
    positions = [position for position, (name, _) in enumerate(runs) if name == sentinel]
    for position, (name, ms) in enumerate(runs):
        before = max(other for other in positions if other <= position)
        after = min(other for other in positions if other >= position)
        yield name, ms, (runs[before][1] + runs[after][1]) / 2


def _time_ns(name: str, call: Call, clock: Clock) -> int:
    began = clock.ticks()
    try:
        call()
    except MeasuringFailed:
        raise
    except Exception as error:  # every runtime raises classes of its own
        raise MeasuringFailed(f"{name} cannot be run ({get_first_line(error)})") from error
    return clock.ticks() - began
