"""Executors: whoever evaluates, the same qualities; and a search on a cluster is the search of one process."""

import os
import platform
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import pytest
import torch
from families import build
from test_quality import dataset
from torch import nn

from nas.execution.cluster import Cluster, RayExecutor
from nas.execution.device_node import Node
from nas.execution.packing import pack, unpack
from nas.execution.task import Executor, Task
from nas.execution.task_scheduling import Shares
from nas.execution.worker import Bench, LocalExecutor, Worker
from nas.progress import Silent
from nas.quality import choose_evaluator
from nas.request.search_request import parse_resources
from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit
from search_spaces.errors import ExecutionError, MeasurementError, UsageError

ray = pytest.importorskip("ray")


def bench(family: str = "llama") -> Bench:
    model = build(family)
    return Bench(model, read_anatomy(model), choose_evaluator(model, dataset(family)))


def tasks(depth: int) -> list[Task]:
    """Single drops on few items, one on more, one in full on another split."""
    parent = Architecture.parent(depth)
    units = [Unit(layer, kind) for layer in range(depth) for kind in (Kind.ATTENTION, Kind.MLP)]
    single = [Task(parent.drop(unit), (0, 4)) for unit in units]
    return [*single, Task(parent.drop(*units[:2]), (2, 4, 8)), Task(parent.drop(units[1]), split="test")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=4, resources={"made-up-board": 1}, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def on_ray(cluster: None) -> Iterator[RayExecutor]:
    made = Cluster(workers=2).open_executor(bench())
    yield made
    made.close()


@pytest.fixture(params=["local", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    """Every implementation, under one contract."""
    return request.getfixturevalue("on_ray") if request.param == "ray" else LocalExecutor(Worker(bench()))


def test_every_task_gives_what_a_plain_evaluation_gives(executor: Executor) -> None:
    plain, asked = bench(), tasks(4)
    found = dict(executor.run(asked))
    assert sorted(found) == list(range(len(asked)))
    for position, task in enumerate(asked):
        model = prune(plain.parent, task.architecture)
        if not task.cuts:
            assert found[position] == (plain.evaluator.evaluate(model, "test"),)
        for start, end, piece in zip(task.cuts, task.cuts[1:], found[position], strict=False):
            expected = plain.evaluator.evaluate(model, "validation", end, start)
            assert piece.per_item == pytest.approx(expected.per_item, abs=1e-6)
            assert piece.items == end - start
    assert list(executor.run([])) == []


def test_what_an_evaluation_raises_arrives(executor: Executor) -> None:
    with pytest.raises(Exception, match="another parent"):
        list(executor.run([Task(Architecture.parent(7), (0, 4))]))


def pids(executor: RayExecutor, running: int | None = None) -> list[int]:
    asked = [actor.__ray_call__.remote(lambda self: os.getpid()) for actor in executor._actors]
    return ray.get(ray.wait(asked, num_returns=running or len(asked))[0])


def test_killed_workers_cost_nothing(on_ray: RayExecutor) -> None:
    asked = tasks(4) * 8
    expected = dict(LocalExecutor(Worker(bench())).run(tasks(4)))
    found, victims = {}, pids(on_ray)
    for position, pieces in on_ray.run(asked):
        assert position not in found
        found[position] = pieces
        if victims:
            os.kill(victims.pop(), signal.SIGKILL)
    assert not victims
    assert len(found) == len(asked)
    for position, pieces in found.items():
        assert [p.per_item for p in pieces] == [
            pytest.approx(q.per_item, abs=1e-6) for q in expected[position % len(expected)]
        ]


class Deadly:
    """An evaluator whose process dies over it."""

    metric, higher_is_better, dataset = "kl", False, None

    def evaluate(self, *arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_more_workers_than_there_is_room_for_are_not_waited_for(cluster: None, monkeypatch) -> None:
    """Three where two fit: the third never starts. Then a node's workers hang: idle ones take over what they have."""
    executor = Cluster(workers=3).open_executor(bench())
    expected = dict(LocalExecutor(Worker(bench())).run(tasks(4)))
    found = dict(executor.run(tasks(4)))
    assert found.keys() == expected.keys()
    monkeypatch.setattr("nas.execution.cluster.STALLED_S", 0.5)
    hung = pids(executor, 2)[0]
    os.kill(hung, signal.SIGSTOP)
    try:
        found = list(executor.run(tasks(4)))
    finally:
        os.kill(hung, signal.SIGKILL)
        executor.close()
    assert sorted(position for position, _ in found) == sorted(expected)


def test_what_is_stopped_in_mid_batch_ends_after_its_executor(cluster: None) -> None:
    """As on Ctrl-C: the batch is only given up when nobody holds it any more."""
    executor = Cluster(workers=1).open_executor(bench())
    running = executor.run(tasks(4))
    next(running)
    executor.close()
    running.close()
    assert list(running) == []


def test_a_cluster_without_a_worker_is_said(cluster: None, monkeypatch) -> None:
    monkeypatch.setattr("nas.execution.cluster.START_S", 0.5)
    executor = Cluster(workers=1, resources={"CPU": 1.0, "unheard-of": 1.0}).open_executor(bench())
    with pytest.raises(ExecutionError, match=r"no worker has started.*--worker-resources"):
        list(executor.run(tasks(4)))
    executor.close()


@pytest.mark.slow
def test_an_evaluation_that_kills_its_workers_is_said(cluster: None) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[Deadly.__module__])  # workers cannot import a test
    model = build("llama")
    executor = Cluster(workers=1).open_executor(Bench(model, read_anatomy(model), Deadly()))
    with pytest.raises(ExecutionError, match="workers died over its evaluation"):
        list(executor.run([Task(Architecture.parent(4), (0, 4))]))
    executor.close()


def test_more_than_the_cluster_has_is_refused_with_the_repair(cluster: None) -> None:
    with pytest.raises(ExecutionError, match=r"no node of the cluster offers 64 CPU.*--worker-resources"):
        Cluster(resources={"CPU": 64.0}).open_executor(bench())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3, bias=False)
        self.other = nn.Linear(3, 3, bias=False)
        self.other.weight = self.one.weight
        self.register_buffer("small", torch.arange(6, dtype=torch.bfloat16).reshape(2, 3), persistent=False)
        self.scalar, self.empty = torch.tensor(3.5), torch.empty(0, 4)
        self.turned = torch.arange(6.0).reshape(2, 3).T


def test_packing_keeps_values_ties_and_memory() -> None:
    before = Tied()
    packed = pack(before)
    after = unpack(packed)
    assert after.one.weight is after.other.weight
    assert isinstance(after.one.weight, nn.Parameter)
    for name in ("small", "scalar", "empty", "turned"):
        assert torch.equal(getattr(after, name), getattr(before, name))
        assert getattr(after, name).dtype == getattr(before, name).dtype
    assert torch.equal(after.one.weight, before.one.weight)
    assert sum(array.nbytes for array in packed.arrays) == 4 * 9 + 2 * 6 + 4 + 4 * 6
    spans = [(array.__array_interface__["data"][0], array.nbytes) for array in packed.arrays]
    assert any(start <= after.one.weight.data_ptr() < start + nbytes for start, nbytes in spans)  # not copied


@pytest.mark.parametrize("workers", [1, 2, 3, 50])
def test_shares_give_every_task_once_and_neighbours_to_one_worker(workers: int) -> None:
    asked = tasks(6)
    shares = Shares(asked, workers)
    given: list[tuple[int, int]] = []
    left = True
    while left:
        turn = [(worker, position) for worker in range(workers) if (position := shares.take_next(worker)) is not None]
        given, left = given + turn, bool(turn)
    assert sorted(position for _, position in given) == list(range(len(asked)))
    if workers == 2:  # the first of the validation split drop late parts, the last early ones
        own = [[asked[position].architecture for worker, position in given if worker == each] for each in range(2)]
        depths = [sorted(min(u.layer for u in a.choices) for a in some[:4]) for some in own]
        assert depths[0] != depths[1]


def test_an_idle_worker_takes_from_the_busiest() -> None:
    shares = Shares(tasks(6), 2)
    taken = [shares.take_next(0) for _ in range(len(tasks(6)))]
    assert sorted(position for position in taken if position is not None) == list(range(len(tasks(6))))
    assert shares.take_next(1) is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("keeps", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_memory_of_an_evaluation_is_there_for_the_next(keeps: bool) -> None:
    """Counted in a process of its own: page faults of three tensors of 30 MB, again and again.

    Without it they fault in every round, or in one of four; with it in one of twenty, when the heap grows for once.
    """
    code = f"""
import resource, torch
from nas.execution.memory_allocator import keep_memory
if {keeps}: keep_memory()
def use():
    return sum(tensor.sum() for tensor in [torch.ones(7_500_000) for _ in range(3)])
for _ in range(5): use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    pages = 20 * 3 * 30_000_000 / resource.getpagesize()
    assert (int(done.stdout) < 0.15 * pages) == keeps


def test_what_is_put_back_is_given_again_first() -> None:
    shares = Shares(tasks(6), 2)
    lost = shares.take_next(0)
    assert lost is not None
    shares.put_back(lost, 0)
    given = [shares.take_next(0)] + [shares.take_next(worker) for worker in [1, 0] * len(tasks(6))]
    assert given[0] == lost
    assert sorted(position for position in given if position is not None) == list(range(len(tasks(6))))


@pytest.mark.parametrize("text", ["", "2", "[]", "{}", '{"CPU": 0}', '{"CPU": "2"}', '{"CPU": -1}', '{"CPU": true}'])
def test_worker_resources_are_checked(text: str) -> None:
    with pytest.raises(UsageError, match="worker resources"):
        parse_resources(text)


def test_worker_resources_are_read() -> None:
    assert parse_resources('{"CPU": 2, "big": 0.5}') == {"CPU": 2.0, "big": 0.5}


def kit_of(path: Path, source: str) -> Path:
    with zipfile.ZipFile(path, "w") as kit:
        kit.writestr("run.py", source)
    return path


def test_kits_queue_for_the_node_that_has_the_device(cluster: None, tmp_path: Path) -> None:
    """The only node offers one unit: two kits at once are measured one after the other."""
    source = (
        "import time; began = time.time(); time.sleep(0.3);open('profile.json', 'w').write(f'{began} {time.time()}')"
    )
    kit, node = kit_of(tmp_path / "kit.zip", source), Node("made-up-board")
    with ThreadPoolExecutor() as pool:
        spans = sorted(
            tuple(map(float, document.split())) for document in pool.map(node.run, [kit] * 2, [Silent()] * 2)
        )
    assert spans[0][1] <= spans[1][0]


def test_what_fails_on_a_node_is_what_its_runner_said(cluster: None, tmp_path: Path) -> None:
    failing = kit_of(tmp_path / "kit.zip", 'import sys; sys.exit("error: no runtime here; install onnxruntime")')
    with pytest.raises(MeasurementError, match="node with made-up-board: no runtime here; install onnxruntime"):
        Node("made-up-board").run(failing, Silent())
