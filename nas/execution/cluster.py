"""A Ray cluster that evaluates: actors that hold the parent, found by address or started on this machine.

The driver keeps the study and everything that was found out; actors keep nothing that is missed when they die. Weights
go through the object store, once per node; every actor of a node reads the same memory.
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from nas.execution.calls import AGAIN_S, DEATHS, call_on_actors
from nas.execution.packing import Packed, pack, unpack
from nas.execution.task import Pieces, Task
from nas.execution.task_scheduling import Shares
from nas.execution.worker import Bench, Worker
from pruning.inference.device import AUTO, find_device
from search_spaces.errors import ExecutionError, MissingExtra, NasError

IN_FLIGHT = 2  # tasks an actor has at a time, so that it never waits for the driver
START_S = 600.0  # until the first worker has started: nodes may have to be bought first
STALLED_S = 30.0  # without anything that ended, until idle workers take over
_LONGEST_SOCKET = 107  # bytes of a path: sockaddr_un of Linux
_SOCKET = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")
_SHORT = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # folders for sockets where TMPDIR is too long
_CPU, _GPU = "CPU", "GPU"


@dataclass(frozen=True)
class Cluster:
    """Where to evaluate and what to ask for.

    Attributes:
        workers: actors; None for as many as the cluster has room for.
        resources: of one actor: `CPU`, `GPU`, or any name that nodes were started with.

    Example:
        >>> executor = Cluster(workers=8, resources={"GPU": 1.0}).open_executor(bench)
    """

    workers: int | None = None
    resources: dict[str, float] = field(default_factory=lambda: {_CPU: 1.0})

    def open_executor(self, bench: Bench) -> "RayExecutor":
        """Connect, and start the actors.

        Raises:
            MissingExtra: Ray is not installed.
            ExecutionError: the cluster cannot be reached, or has no room for one actor.
        """
        connect()
        return RayExecutor(bench, self.workers or self._count_free_slots(), self.resources)

    def _count_free_slots(self) -> int:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        asked = [(name, amount) for name, amount in self.resources.items() if amount > 0]
        fits = sum(int(min(node.get(name, 0.0) / amount for name, amount in asked)) for node in nodes)
        if fits < 1:
            words = ", ".join(f"{amount:g} {name}" for name, amount in asked)
            raise ExecutionError(f"no node of the cluster offers {words}; ask for less with --worker-resources")
        return fits


def list_offered_resources() -> dict[str, float]:
    """What the nodes of the cluster have together, by name.

    Raises:
        MissingExtra, ExecutionError: as `connect`.
    """
    connect()
    import ray

    return dict(ray.cluster_resources())


def connect() -> None:
    """Join the cluster of RAY_ADDRESS, or start one on this machine; once per process.

    Raises:
        MissingExtra, ExecutionError: no Ray, or nobody answers.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtra("--executor ray needs Ray; install it with: pip install 'nas[ray]'") from None
    _redirect_messages()
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_worker_niceness", "0")  # of a cluster that starts here: the work is why it is started
    try:
        with keep_own_handlers(), _shorten_paths():
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", include_dashboard=None)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ExecutionError(f"Ray at {address or 'this machine'}: {reason}; check RAY_ADDRESS and its token") from None


@contextmanager
def _shorten_paths() -> Iterator[None]:
    """A cluster that starts here meanwhile keeps its sockets, whose paths the system limits, in a folder that is short.

    Raises:
        OSError: there is none that this account can write to.
    """
    given = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or ""
    if len(os.fsencode(given)) + _SOCKET <= _LONGEST_SOCKET:
        yield
        return
    short = next((folder for folder in _SHORT if os.access(folder, os.W_OK | os.X_OK)), None)
    if short is None:
        raise OSError(f"the folder {given} is too long for its sockets; set RAY_TMPDIR to a short one")
    kept = {name: os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR")}
    os.environ.update(dict.fromkeys(kept, short))
    try:
        yield
    finally:
        for name, value in kept.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@cache
def _redirect_messages() -> None:
    """Ray prints what it has to say of workers and nodes that died to stdout, where our document belongs."""
    from ray._private import worker

    printer = worker.print_to_stdstream
    worker.print_to_stdstream = lambda data, **more: printer({**data, "is_err": True}, **more)


@contextmanager
def keep_own_handlers() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it starts, to end with a stack trace: here it stays what it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


class RayExecutor:
    """Tasks on actors. One that dies is started again where there is room; what it had goes to who is there."""

    def __init__(self, bench: Bench, workers: int, resources: dict[str, float]) -> None:
        """Put the parent into the object store and ask for actors; they start while the driver goes on."""
        import ray

        special = {name: amount for name, amount in resources.items() if name not in (_CPU, _GPU)}
        options = {
            "num_cpus": resources.get(_CPU, 0.0), "num_gpus": resources.get(_GPU, 0.0), "resources": special,
            "max_restarts": -1,
        }  # fmt: skip
        self._packed = ray.put(pack(bench))
        threads = max(1, int(resources.get(_CPU, 1.0)))
        actor = ray.remote(**options)(Evaluating)
        self._actors = [actor.remote(threads) for _ in range(workers)]
        self._starting = {self._start(worker): worker for worker in range(workers)}

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Pieces]]:
        """As they end.

        Raises:
            NasError: what an evaluation raised there.
            ExecutionError: a task whose workers die again and again, or no worker that starts.
        """
        batch = _Batch(tasks, self._actors, self._starting, self._start)
        while batch.left:
            yield from batch.wait_for_ended()
        batch.leave()

    def call(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """The place of some arguments and what `function(worker, *arguments)` gave on a worker, as they end.

        Each worker has one call at a time. What a worker had that died is done again.

        Raises:
            NasError: what the function raised there.
            ExecutionError: a call whose workers die again and again.
        """
        return call_on_actors(self._actors, (self._packed, function), arguments)

    def _start(self, worker: int) -> Any:
        """Answered once the actor runs and has the parent; one that was restarted is given it again."""
        return self._actors[worker].prepare.remote(self._packed)

    def close(self) -> None:
        """End the actors."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._starting = [], {}


class _Batch:
    """Who has which of some tasks. Workers that are starting have none; what one had that died or hangs, others get.

    Ray could retry a lost task by itself, but only on the same actor: while that waits for a new node, every retry
    fails at once.
    """

    def __init__(
        self, tasks: Sequence[Task], actors: Sequence[Any], starting: dict[Any, int], start: Callable[[int], Any]
    ) -> None:
        self._tasks, self._actors, self._starting, self._start = tasks, actors, starting, start
        self._shares = Shares(tasks, len(actors))
        self._running: dict[
            Any, tuple[int, int]
        ] = {}  # what an actor has, first given first: the position, and the actor
        self._homeless: set[int] = set()  # actors that wait for a node
        self._deaths: Counter[int] = Counter()
        self._heard = time.monotonic()
        self.left = set(range(len(tasks)))
        self._give()

    def wait_for_ended(self) -> list[tuple[int, Pieces]]:
        """Wait until something happens: what ended by it for the first time."""
        reference = self._wait()
        if reference is None:
            for worker in self._homeless:
                self._count_restart(worker)
            self._homeless.clear()
            if time.monotonic() - self._heard >= self._patience_s:
                self._pass_on()
            return []
        ended = self._note_started(reference) if reference in self._starting else self._collect_result(reference)
        self._give()
        return ended

    def leave(self) -> None:
        """Who still has a task, which somebody else has done, gets no other before it is through with it."""
        for worker in {worker for _, worker in self._running.values()} | self._homeless:
            self._count_restart(worker)

    @property
    def _patience_s(self) -> float:
        return STALLED_S if self._running else START_S

    def _wait(self) -> Any:
        """What ended; None if nothing has for long, or it is time to ask again."""
        import ray

        seconds = max(0.0, self._heard + self._patience_s - time.monotonic())
        seconds = min(seconds, AGAIN_S) if self._homeless else seconds
        references = [*self._running, *self._starting]
        if not references:
            time.sleep(seconds)
            return None
        done, _ = ray.wait(references, num_returns=1, timeout=seconds)
        return done[0] if done else None

    def _note_started(self, reference: Any) -> list[tuple[int, Pieces]]:
        import ray

        worker = self._starting.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.ActorUnavailableError:
            self._homeless.add(worker)
        except ray.exceptions.RayError as error:
            raise ExecutionError(
                f"a worker did not start ({_find_reason(error)}); every node needs this package"
            ) from None
        else:
            self._heard = time.monotonic()
        return []

    def _collect_result(self, reference: Any) -> list[tuple[int, Pieces]]:
        import ray

        position = self._running[reference][0]
        try:
            pieces: Pieces = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, Restarted):
                raise (error.cause if isinstance(error.cause, NasError) else error) from None
            self._handle_lost(reference, "restarted")
            return []
        except ray.exceptions.RayError as error:
            self._handle_lost(reference, _find_reason(error))
            return []
        del self._running[reference]
        self._heard = time.monotonic()
        first = position in self.left
        self.left.discard(position)
        return [(position, pieces)] if first else []

    def _handle_lost(self, reference: Any, reason: str) -> None:
        """A worker or its node died: over the task that it was at, not over the one that waited there.

        Raises:
            ExecutionError: too many died over it.
        """
        position, worker = self._running[reference]
        at = next(each for each in self._running if self._running[each][1] == worker)
        self._deaths[position] += reference is at
        if self._deaths[position] > DEATHS:
            raise ExecutionError(
                f"{self._tasks[position].architecture.words}: {self._deaths[position]} workers died over its "
                f"evaluation ({reason}); give a worker more memory, or fewer workers to a node"
            )
        del self._running[reference]
        if position in self.left:
            self._shares.put_back(position, worker)
        self._count_restart(worker)

    def _count_restart(self, worker: int) -> None:
        if worker not in self._starting.values():
            self._starting[self._start(worker)] = worker

    def _give(self) -> None:
        """Fill up who has started, one task each at a time."""
        away = self._homeless.union(self._starting.values())
        loads = Counter(worker for _, worker in self._running.values())
        for max_in_flight in range(1, IN_FLIGHT + 1):
            for worker in range(len(self._actors)):
                if worker not in away and loads[worker] < max_in_flight:
                    position = self._shares.take_next(worker)
                    if position is None:
                        return
                    loads[worker] += 1
                    self._run(position, worker)

    def _run(self, position: int, worker: int) -> None:
        self._running[self._actors[worker].run.remote(self._tasks[position])] = position, worker

    def _pass_on(self) -> None:
        """Nothing has ended for long: idle workers take over what others have, whose nodes may be gone.

        Raises:
            ExecutionError: nobody has started at all.
        """
        if not self._running:
            raise ExecutionError(
                f"no worker has started within {START_S / 60:.0f} min; see what the cluster has with `ray status`, and "
                "ask for less with --worker-resources"
            )
        self._heard = time.monotonic()
        busy = {worker for _, worker in self._running.values()} | self._homeless.union(self._starting.values())
        idle = [worker for worker in range(len(self._actors)) if worker not in busy]
        held = [position for position, _ in self._running.values()]
        stuck = [position for position in dict.fromkeys(held) if held.count(position) == 1 and position in self.left]
        for worker, position in zip(idle, stuck, strict=False):
            self._run(position, worker)


def _find_reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0].strip()[:200]


class Restarted(Exception):
    """An actor that died since it was last asked, and has no parent yet."""


def _find_own_device() -> torch.device | None:
    """The GPU that this actor was given; None where it was given none."""
    import ray

    return find_device(AUTO) if ray.get_gpu_ids() else None


class Evaluating:
    """The actor: a worker over memory of its node's object store."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._worker: Worker | None = None

    def prepare(self, packed: Packed) -> None:
        """Returns once it can evaluate."""
        self._worker = self._worker or Worker(unpack(packed, _find_own_device()))

    def call(self, packed: Packed, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Run a function with the worker before its other arguments."""
        self.prepare(packed)
        return function(self._worker, *arguments)

    def run(self, task: Task) -> Pieces:
        """Judge a task.

        Raises:
            Restarted: it is not ready.
        """
        if self._worker is None:
            raise Restarted
        return self._worker.run(task)
