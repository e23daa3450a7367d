"""What Ray costs: real tasks beside the same in this process, and tasks that do nothing."""

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from nas.execution import cluster as ray_side
from nas.execution.cluster import Cluster, RayExecutor
from nas.execution.task import Executor, Pieces, Task
from nas.execution.worker import Bench, LocalExecutor, Worker
from nas.quality.quality import Quality
from scaling.case import order_as_shared, say
from scaling.virtual import Costs
from search_spaces.architecture import Architecture

IN_FLIGHT = (2, 16, 128, 1024)
ITEMS = 24  # in the answer of a task that does nothing
LONE = 50  # tasks that are asked for one by one


@contextmanager
def start_own_cluster(cpus: int) -> Iterator[None]:
    """A cluster of this machine, started and ended here."""
    import ray

    os.environ.setdefault("RAY_worker_niceness", "0")  # as `nas.execution.cluster.connect` has it
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


class Idle:
    """Stands for the actor: answers at once."""

    def __init__(self, threads: int) -> None:
        self.answer = (Quality("kl", 0.5, False, "validation", 0.5, {}, ITEMS, (0.5,) * ITEMS),)

    def prepare(self, packed: object) -> None:
        """It is."""

    def run(self, task: Task) -> Pieces:
        return self.answer


@contextmanager
def start_ray_executor(bench: Bench | None, workers: int, actor: type = ray_side.Evaluating) -> Iterator[RayExecutor]:
    with patch.object(ray_side, "Evaluating", actor):
        executor = Cluster(workers, {"CPU": 1.0}).open_executor(bench)  # type: ignore[arg-type]
    try:
        yield executor
    finally:
        executor.close()


def forget(executor: RayExecutor) -> None:
    """Actors begin anew, without states, as at the beginning of a search; returns when they are there."""
    import ray

    def start_anew(actor: Any) -> None:
        from nas.execution.worker import Worker

        actor._worker = Worker(actor._worker.bench)

    ray.get([actor.__ray_call__.remote(start_anew) for actor in executor._actors])


def run_all(executor: Executor, batches: Sequence[Sequence[Task]]) -> float:
    """Seconds that the batches take, one after another."""
    began = time.perf_counter()
    for batch in batches:
        for _ in executor.run(batch):
            pass
    return time.perf_counter() - began


def measure_real_tasks(bench: Bench, batches: Sequence[Sequence[Task]], rounds: int) -> dict[str, Any]:
    """The same batches on one actor with one thread, and in this process, which has one too; a round first to warm."""
    batches, tasks = [order_as_shared(batch) for batch in batches], sum(map(len, batches))
    local, remote = [], []
    with start_ray_executor(bench, 1) as executor:
        for number in range(rounds + 1):
            forget(executor)
            remote.append(run_all(executor, batches))
            local.append(run_all(LocalExecutor(Worker(bench)), batches))
            say(f"round {number}: {tasks} tasks, Ray {remote[-1]:.2f} s, this process {local[-1]:.2f} s")
    extra = [(there - here) / tasks for there, here in zip(remote[1:], local[1:], strict=True)]
    seconds = statistics.median(local[1:]) / tasks
    return {
        "tasks": tasks, "batches": len(batches), "local_s": seconds,
        "extra_s": statistics.median(extra), "extras_s": extra,
    }  # fmt: skip


def measure_idle_tasks(bench: Bench, batch: int, rounds: int, tasks: int = 400) -> dict[str, float]:
    """Seconds per task that does nothing, in batches as small as the search's, and in a single one."""
    task = Task(Architecture.parent(bench.anatomy.depth), (0, ITEMS), bench.precision)
    batched, single = [], []
    with start_ray_executor(None, 1, Idle) as executor:
        for _ in range(rounds + 1):
            batched.append(run_all(executor, [[task] * batch] * (tasks // batch)) / tasks)
            single.append(run_all(executor, [[task] * tasks]) / tasks)
    return {"batched_s": statistics.median(batched[1:]), "single_s": statistics.median(single[1:])}


def dispatch(depth: int) -> Costs:
    """The driver's own time per task by how many are on their way, and what a lone one waits beside it.

    One actor stands for all: the driver does not see how many answer.
    """
    task, serial = Task(Architecture.parent(depth), (0, ITEMS)), []
    with start_ray_executor(None, 1, Idle) as executor:
        run_all(executor, [[task] * LONE])
        lone, alone = _run_timed(executor, [[task]] * LONE)
        for max_in_flight in IN_FLIGHT:
            tasks = [task] * max(200, 3 * max_in_flight)
            with patch.object(ray_side, "IN_FLIGHT", max_in_flight):
                serial.append(_run_timed(executor, [tasks])[1] / len(tasks))
            say(f"{max_in_flight} tasks on their way: {1e3 * serial[-1]:.2f} ms of the driver per task")
    return Costs((1, *IN_FLIGHT), (alone / LONE, *serial), max(0.0, lone - alone) / LONE)


def _run_timed(executor: Executor, batches: Sequence[Sequence[Task]]) -> tuple[float, float]:
    """Seconds that the batches take, and seconds of this thread."""
    began = time.thread_time()
    seconds = run_all(executor, batches)
    return seconds, time.thread_time() - began
