"""A cluster with a virtual clock: a search that was recorded once, played on any number of workers.

Each call of the executor is played as `RayExecutor` runs it: real shares, two tasks on their way to a worker, one
driver that hands out, collects and keeps one result after another, and thinks between the calls. A worker remembers
states as the real one does, so that workers who see fewer tasks resume less often. Workers do not slow each other down.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from nas.execution.cluster import IN_FLIGHT
from nas.execution.task import Task
from nas.execution.task_scheduling import Shares
from nas.quality.precision import Precision
from pruning.inference.prefix_cache import GIB, Prefix, PrefixStore


@dataclass(frozen=True)
class Costs:
    """What Ray adds: seconds of the driver per task by how many are on their way, and latency of a message back."""

    in_flight: tuple[int, ...] = (1,)
    serial_s: tuple[float, ...] = (0.0,)
    latency_s: float = 0.0

    def halve(self, in_flight: int) -> float:
        """Of a task's serial cost: handing it out, or collecting what it gave."""
        return float(np.interp(in_flight, self.in_flight, self.serial_s)) / 2


@dataclass(frozen=True)
class Piece:
    """What a task does on some items: seconds in full, and the share of those that no known state can save."""

    items: str
    seconds: float
    head: float = 1.0
    state_bytes: int = 0


@dataclass(frozen=True)
class Job:
    """A task as it was recorded; `keep_s` is what the driver did with its result."""

    task: Task
    pieces: tuple[Piece, ...]
    prefixes: tuple[Prefix, ...] = ()
    blocks: int = 1
    keep_s: float = 0.0


@dataclass(frozen=True)
class Call:
    """A stretch of the driver in a stage, and the jobs that it then asked for together."""

    stage: str
    before_s: float
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True)
class State:
    """Stands for the hidden states of a piece."""

    nbytes: int


@dataclass
class Remembering:
    """A worker's prefix caches, without their content."""

    stores: dict[Precision, PrefixStore] = field(default_factory=dict)
    free_at: float = 0.0

    def recall_seconds(self, job: Job) -> float:
        """How long it takes this worker now."""
        store = self.stores.setdefault(job.task.precision, PrefixStore(GIB // 2))
        return sum(self._evaluate_piece(job, piece, store) for piece in job.pieces)

    def _evaluate_piece(self, job: Job, piece: Piece, store: PrefixStore) -> float:
        store.candidate += 1
        known, _ = store.find_longest(piece.items, list(job.prefixes))
        run = store.open()
        for prefix in job.prefixes[known:]:
            store.keep(run, piece.items, prefix, State(piece.state_bytes))  # type: ignore[arg-type]
        return piece.seconds * (1 - (1 - piece.head) * known / max(1, job.blocks))


@dataclass
class Played:
    """What came out: virtual seconds, and how they were spent."""

    workers: int
    seconds: float = 0.0
    busy_s: float = 0.0  # of all workers together
    driver_s: float = 0.0
    by_stage: dict[str, float] = field(default_factory=dict)
    driver_by_stage: dict[str, float] = field(default_factory=dict)


def play(calls: Iterable[Call], workers: int, costs: Costs) -> Played:
    """The whole recording on so many workers."""
    cluster, played = [Remembering() for _ in range(workers)], Played(workers)
    for call in calls:
        began = played.seconds
        played.seconds += call.before_s
        ends, busy, driver = _run(call.jobs, cluster, played.seconds, costs)
        driver += call.before_s
        played.seconds, played.busy_s, played.driver_s = ends, played.busy_s + busy, played.driver_s + driver
        played.by_stage[call.stage] = played.by_stage.get(call.stage, 0.0) + ends - began
        played.driver_by_stage[call.stage] = played.driver_by_stage.get(call.stage, 0.0) + driver
    return played


def _run(jobs: Sequence[Job], cluster: list[Remembering], now: float, costs: Costs) -> tuple[float, float, float]:
    """When a call is over, seconds that workers computed, and seconds that the driver worked."""
    shares, numbers = Shares([job.task for job in jobs], len(cluster)), count()
    running: list[tuple[float, int, int, int]] = []
    busy = driver = 0.0

    def run_worker(seconds: float) -> None:
        nonlocal now, driver
        now, driver = now + seconds, driver + seconds

    def give(number: int) -> None:
        nonlocal busy
        position, worker = shares.take_next(number), cluster[number]
        if position is None:
            return
        run_worker(costs.halve(len(running) + 1))
        seconds = worker.recall_seconds(jobs[position])
        worker.free_at = max(worker.free_at, now + costs.latency_s / 2) + seconds
        busy += seconds
        heapq.heappush(running, (worker.free_at, next(numbers), number, position))

    for _ in range(IN_FLIGHT):
        for number in range(len(cluster)):
            give(number)
    while running:
        work_left = len(running)
        done, _, number, position = heapq.heappop(running)
        now = max(now, done + costs.latency_s / 2)
        run_worker(costs.halve(work_left))
        give(number)
        run_worker(jobs[position].keep_s)
    return now, busy, driver
