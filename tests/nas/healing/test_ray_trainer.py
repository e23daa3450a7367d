"""Finalists on workers of a cluster end as those that are trained in one process, also where a worker is killed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from families import build
from healing_case import dataset

from nas.execution.cluster import Cluster, RayExecutor
from nas.execution.worker import Bench
from nas.healing.local_trainer import LocalTrainer
from nas.healing.ray_trainer import RayTrainer
from nas.healing.recipe import Recipe
from nas.healing.state_files import StateFiles
from nas.healing.student import Student, TrainingData
from nas.healing.tournament import Standing, Tournament, Trainer
from nas.healing.tournament_record import TournamentRecord
from nas.progress import Silent
from nas.quality.evaluator import choose_evaluator
from pruning.anatomy.anatomy import read_anatomy
from pruning.compensation.candidate_builder import CandidateBuilder
from search_spaces import Architecture
from search_spaces.errors import ExecutionError, UsageError

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")

WORDS = ("attn+mlp removed attn attn+mlp", "attn mlp attn+mlp attn+mlp", "attn+mlp attn+mlp removed mlp")
ARCHITECTURES = tuple(map(Architecture.from_words, WORDS))
RECIPE = Recipe(steps=9, batch_items=2, accumulation=1)


@pytest.fixture(scope="module")
def bench() -> Bench:
    parent, data = build("llama"), dataset("llama", 12)
    return Bench(parent, read_anatomy(parent), choose_evaluator(parent, data))


@pytest.fixture(scope="module")
def executor(bench: Bench) -> Iterator[RayExecutor]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    made = Cluster(workers=2).open_executor(bench)
    yield made
    made.close()
    ray.shutdown()


def training_data(bench: Bench) -> TrainingData:
    return TrainingData(bench.evaluator.dataset.calibration, 1, {})


def hold(folder: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> Standing:
    """A tournament of two steps for each finalist, two more for two, and five for the last."""
    steps = iter([(2, 9), (2, 7), (5, 5)])
    monkeypatch.setattr("nas.healing.tournament.plan_steps", lambda *_: next(steps))
    record = TournamentRecord({"who": 1}, ARCHITECTURES)
    return Tournament(record, folder, 1e6, trainer, Silent()).run()


def test_workers_come_to_what_one_process_comes_to(
    bench: Bench, executor: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = CandidateBuilder(bench.parent, bench.anatomy)

    def build_student(member: int) -> Student:
        model = builder.build(ARCHITECTURES[member])
        return Student(bench.parent, bench.anatomy, model, ARCHITECTURES[member], bench.evaluator, training_data(bench))

    here = StateFiles(tmp_path / "here", {"who": 1}, ARCHITECTURES)
    there = StateFiles(tmp_path / "there", {"who": 1}, ARCHITECTURES)
    local = hold(here.folder, LocalTrainer(here, build_student, RECIPE, Silent()), monkeypatch)
    remote = hold(there.folder, RayTrainer(there, training_data(bench), RECIPE, executor, Silent()), monkeypatch)
    assert [rung.members for rung in remote.rungs] == [rung.members for rung in local.rungs]
    for one, other in zip(remote.states, local.states, strict=True):
        assert (one.done, one.tokens) == (other.done, other.tokens)
        assert [step for step, _ in one.history] == [step for step, _ in other.history]
        assert [loss for _, loss in one.history] == pytest.approx([loss for _, loss in other.history], rel=1e-3)
    assert remote.order == local.order
    assert there.restore(0).done == remote.states[0].done


def test_what_a_killed_worker_had_is_done_again(executor: RayExecutor) -> None:
    marks = []

    def die_once(worker: object, path: str) -> int:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return os.getpid()
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    import tempfile

    with tempfile.TemporaryDirectory() as name:
        marks = [(f"{name}/{number}",) for number in range(2)]
        ended = dict(executor.call(die_once, marks))
    assert sorted(ended) == [0, 1]
    assert all(ended.values())


def test_what_a_call_raises_arrives_and_deaths_have_an_end(executor: RayExecutor) -> None:
    def refuse(worker: object, words: str) -> None:
        raise UsageError(words)

    with pytest.raises(UsageError, match="no such thing"):
        list(executor.call(refuse, [("no such thing",)]))
    with pytest.raises(ExecutionError, match="4 workers died over one call"):
        list(executor.call(lambda worker: os.kill(os.getpid(), signal.SIGKILL), [()]))
