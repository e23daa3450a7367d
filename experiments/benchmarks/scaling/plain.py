"""Ray's workers beside plain processes: as many of each, the same tasks, one thread each."""

import multiprocessing
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from nas.execution.packing import Packed, pack, unpack
from nas.execution.task import Task
from nas.execution.worker import Bench, LocalExecutor, Worker
from scaling.case import Case, order_as_shared, say
from scaling.raycost import forget, run_all, start_own_cluster, start_ray_executor

WORKERS = 2


def list_typical_tasks(case: Case, trials: int) -> list[Task]:
    """What a search asks for: every unit alone on the first rung, and so many mixtures on the first two."""
    space, rungs = case.base.space, case.base.rungs
    first, second = (items for items in rungs[:2] if items is not None)
    alone = [Task(space.start.drop(unit), (0, first), case.bench.precision) for unit in space.choices]
    rng = random.Random(0)
    mixed = [space.sample(rng, 0.3) for _ in range(trials)]
    return order_as_shared([*alone, *(Task(some, (0, first, second), case.bench.precision) for some in mixed)])


def serve(pipe: Connection) -> None:
    """A plain process: takes its equipment, then lists of tasks, each judged without earlier states."""
    import torch

    torch.set_num_threads(1)
    bench: Bench = unpack(pipe.recv())
    while (tasks := pipe.recv()) is not None:
        for _ in LocalExecutor(Worker(bench)).run(tasks):
            pass
        pipe.send(len(tasks))


@contextmanager
def start_plain_processes(packed: Packed) -> Iterator[list[Connection]]:
    context, pipes, running = multiprocessing.get_context("spawn"), [], []
    try:
        for _ in range(WORKERS):
            mine, its = context.Pipe()
            running.append(context.Process(target=serve, args=(its,), daemon=True))
            running[-1].start()
            mine.send(packed)
            pipes.append(mine)
        yield pipes
    finally:
        for pipe in pipes:
            pipe.send(None)
        for process in running:
            process.join(timeout=10)


def measure_plain_seconds(pipes: list[Connection], tasks: list[Task]) -> float:
    """All at once, an equal stretch each, as the shares of a cluster are."""
    ends = [len(tasks) * position // len(pipes) for position in range(len(pipes) + 1)]
    began = time.perf_counter()
    for pipe, start, end in zip(pipes, ends, ends[1:], strict=False):
        pipe.send(tasks[start:end])
    for pipe in pipes:
        pipe.recv()
    return time.perf_counter() - began


def measure_workers(case: Case, rounds: int, trials: int) -> dict[str, Any]:
    """Tasks per second of both, interleaved; a round first to warm up."""
    tasks, plain, remote = list_typical_tasks(case, trials), [], []
    with (
        start_own_cluster(WORKERS),
        start_ray_executor(case.bench, WORKERS) as executor,
        start_plain_processes(pack(case.bench)) as pipes,
    ):
        for number in range(rounds + 1):
            plain.append(len(tasks) / measure_plain_seconds(pipes, tasks))
            forget(executor)
            remote.append(len(tasks) / run_all(executor, [tasks]))
            say(f"round {number}: plain {plain[-1]:.2f} tasks/s, Ray {remote[-1]:.2f}")
    plain, remote = plain[1:], remote[1:]
    ratios = [there / here for there, here in zip(remote, plain, strict=True)]
    return {
        "verb": "workers", "model": case.parent.id, "tasks": len(tasks), "rounds": rounds,
        "plain_per_s": statistics.median(plain), "ray_per_s": statistics.median(remote),
        "ratio": statistics.median(remote) / statistics.median(plain), "ratios": ratios,
    }  # fmt: skip
