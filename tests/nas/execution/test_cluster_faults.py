"""A search on a cluster whose parts die: the same winner as one process finds, nothing lost, nothing counted twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from families import build
from test_quality import dataset
from test_search import sequence

from nas.execution.cluster import Cluster, RayExecutor
from nas.execution.evaluation_cache import CachedEvaluator
from nas.execution.task import Executor
from nas.execution.worker import Bench, LocalExecutor, Worker
from nas.quality import choose_evaluator
from nas.quality.evaluations import FileEvaluations
from nas.quality.precision import Precision
from nas.search import Problem, SearchOutcome, run_search
from nas.testing import SyntheticLatency
from pruning.analysis.redundancy import Redundancy
from pruning.anatomy.anatomy import read_anatomy
from search_spaces import Kind

ray = pytest.importorskip("ray")

DEPTH = 4


def bench() -> Bench:
    model = build("llama")
    return Bench(model, read_anatomy(model), choose_evaluator(model, dataset("llama")))


def similarities() -> Redundancy:
    """Made-up cosines."""
    rng = np.random.default_rng(0)
    attention, mlp, block = (tuple(rng.uniform(0.5, 1, DEPTH)) for _ in range(3))
    between = tuple(tuple(row) for row in rng.uniform(0.5, 1, (DEPTH + 1, DEPTH + 1)))
    return Redundancy("made", "pre_norm", 1, attention, mlp, block, between)


def search(
    executor: Executor, equipment: Bench, folder: Path, meanwhile: Callable[[int], None] = lambda reported: None
):
    """A search over the tiny model, and its cached evaluator; `meanwhile` is called after every trial that ended."""
    folder.mkdir(exist_ok=True)
    known = FileEvaluations(folder / "evaluations.jsonl", "test")
    cached_evaluator = CachedEvaluator(equipment.evaluator, known, executor, Precision.FP32, (3, 6))
    problem = Problem(
        space=equipment.anatomy.build_space((Kind.ATTENTION, Kind.MLP)), evaluate=cached_evaluator,
        prefetch=cached_evaluator.prefetch,
        latency=SyntheticLatency(DEPTH), budget_ms=8.5, percentile=90, redundancy=similarities(),
        storage=f"sqlite:///{folder}/study.db", rungs=(3, 6, 9), trials=16, batch=4,
        on_trial=lambda more, note: meanwhile(more),
    )  # fmt: skip
    return run_search(problem), cached_evaluator


def same(one: SearchOutcome, other: SearchOutcome) -> bool:
    """The same trials in the same order with the same losses but for rounding."""
    pairs = zip(sequence(one), sequence(other), strict=True)
    return all(a[:2] == b[:2] and a[2] == pytest.approx(b[2], abs=1e-6) for a, b in pairs)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchOutcome, int]:
    """The search of one process, and how many evaluations it took."""
    equipment = bench()
    outcome, cached_evaluator = search(LocalExecutor(Worker(equipment)), equipment, tmp_path_factory.mktemp("alone"))
    return outcome, cached_evaluator.evaluations


def lines(folder: Path) -> list[str]:
    """What was kept of every evaluation: architecture, items, precision."""
    entries = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()[1:]]
    return [json.dumps([e["architecture"], e["asked"], e["precision"]], sort_keys=True) for e in entries]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_any_number_of_workers_finds_what_one_process_finds(
    workers: int, cluster: None, alone: tuple[SearchOutcome, int], tmp_path: Path
) -> None:
    equipment = bench()
    executor = Cluster(workers=workers).open_executor(equipment)
    outcome, cached_evaluator = search(executor, equipment, tmp_path)
    executor.close()
    assert same(outcome, alone[0])
    assert outcome.winner.architecture == alone[0].winner.architecture
    assert cached_evaluator.evaluations == alone[1]


def workers_of(executor: RayExecutor) -> list[int]:
    return [ray.get(actor.__ray_call__.remote(lambda self: os.getpid())) for actor in executor._actors]


@pytest.mark.slow  # that killed workers cost no evaluation, test_execution.py says
def test_kill_9_of_workers_in_mid_search_changes_nothing(
    cluster: None, alone: tuple[SearchOutcome, int], tmp_path: Path
) -> None:
    equipment = bench()
    executor = Cluster(workers=2).open_executor(equipment)
    victims = workers_of(executor)

    def kill(reported: int) -> None:
        if victims:
            os.kill(victims.pop(), signal.SIGKILL)

    outcome, cached_evaluator = search(executor, equipment, tmp_path, kill)
    executor.close()
    assert not victims
    assert same(outcome, alone[0])
    assert cached_evaluator.evaluations == alone[1]
    kept = lines(tmp_path)
    assert len(kept) == len(set(kept)) == len(cached_evaluator.known)


@pytest.mark.slow
def test_a_node_that_dies_in_mid_search_changes_nothing(alone: tuple[SearchOutcome, int], tmp_path: Path) -> None:
    """In a process of its own: this one may have a cluster already."""
    code = f"import test_cluster_faults as t; from pathlib import Path; t.lose_a_node(Path({str(tmp_path)!r}))"
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)  # what Ray says of the node is not in it
    assert found["winner"] == alone[0].winner.architecture.digest
    assert found["trials"] == [list(each[:2]) for each in sequence(alone[0])]
    assert found["evaluations"] == alone[1]
    kept = lines(tmp_path)
    assert len(kept) == len(set(kept))


def lose_a_node(folder: Path) -> None:
    """A search on two nodes, of which the one dies that most workers are on."""
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0})
    first, _ = nodes.add_node(num_cpus=2), nodes.add_node(num_cpus=2)
    nodes.wait_for_nodes()
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    equipment = bench()
    executor, left = Cluster(workers=2).open_executor(equipment), [first]
    workers_of(executor)  # they run

    def lose(reported: int) -> None:
        if left:
            nodes.remove_node(left.pop(), allow_graceful=False)

    outcome, cached_evaluator = search(executor, equipment, folder, lose)
    trials = [each[:2] for each in sequence(outcome)]
    print(
        json.dumps(
            {
                "winner": outcome.winner.architecture.digest,
                "trials": trials,
                "evaluations": cached_evaluator.evaluations,
            }
        )
    )
    ray.shutdown()
    nodes.shutdown()


def search_here(folder: Path, pause_s: float = 0.05) -> SearchOutcome:
    """The search of the driver that is killed, slow enough to be hit."""
    equipment = bench()
    return search(LocalExecutor(Worker(equipment)), equipment, folder, lambda reported: time.sleep(pause_s))[0]


@pytest.mark.parametrize("reported", [pytest.param(2, marks=pytest.mark.slow), 9])
def test_kill_9_of_the_driver_and_its_next_start_change_nothing(
    reported: int, alone: tuple[SearchOutcome, int], tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    code = f"import test_cluster_faults as t; from pathlib import Path; t.search_here(Path({str(tmp_path)!r}))"
    command = [sys.executable, "-c", code]
    victim = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and told_in(tmp_path) < reported:
        time.sleep(0.01)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    again = search_here(tmp_path, pause_s=0)
    assert again.winner.architecture == alone[0].winner.architecture
    assert [each[:2] for each in sequence(again)] == [each[:2] for each in sequence(alone[0])]
    kept = lines(tmp_path)
    assert len(kept) == len(set(kept)) >= alone[1]


def told_in(folder: Path) -> int:
    """How many trials have ended in a study that somebody else writes."""
    import sqlite3

    try:
        with sqlite3.connect(f"file:{folder}/study.db?mode=ro", uri=True, timeout=1) as database:
            return int(
                database.execute("select count(*) from trials where state in ('COMPLETE', 'PRUNED')").fetchone()[0]
            )
    except sqlite3.Error:
        return 0
