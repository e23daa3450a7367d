"""What the driver and Ray cost per evaluation, beside what an evaluation takes."""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from nas.execution.evaluation_cache import CachedEvaluator
from nas.execution.task import Pieces, Task
from nas.execution.worker import LocalExecutor, Worker
from nas.quality.evaluations import FileEvaluations
from nas.search import engine, proposals
from nas.search.journal import Journal
from nas.search.problem import Problem
from nas.search.run import run_search
from nas.search.surrogate import Surrogate
from nas.storage.database import Database
from scaling.case import Case, say
from scaling.raycost import measure_idle_tasks, measure_real_tasks, start_own_cluster
from scaling.stopwatch import TimedFunction, watch_calls

TIMED: tuple[TimedFunction, ...] = (
    ("latency model", Problem, "predict_ms"),
    ("looking up evaluations", CachedEvaluator, "__call__"),
    ("looking up evaluations", CachedEvaluator, "prefetch"),
    ("proposals", proposals.LevelSwitch, "propose"),
    ("proposals: neighbours", proposals.LevelSwitch, "_list_neighbours"),
    ("proposals: fitting the surrogate", proposals.LevelSwitch, "fit_surrogate"),
    ("proposals: ranking", Surrogate, "rank"),
    ("proposals: exact solve", proposals, "solve"),
    ("proposals: exact solve", engine, "solve"),
    ("proposals: knobs", engine.Engine, "_propose_by_knobs"),
    ("one-shot rankings", engine, "rank_one_shot"),
    ("way down", engine.GreedyRemoval, "run"),
    ("study: opening", Journal, "__init__"),
    ("study: commits", Session, "commit"),
    ("study: statements", Database, "retry_with_backoff"),
    ("study: Optuna", Journal, "ask"),
    ("study: Optuna", Journal, "tell"),
    ("study: Optuna", Journal, "queue"),
    ("study: reading candidates", Journal, "list_candidates"),
)
REST = "rest"


@dataclass
class Noting:
    """Evaluates here, and notes the batches and the seconds they took."""

    inner: LocalExecutor
    batches: list[list[Task]] = field(default_factory=list)
    seconds: float = 0.0

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Pieces]]:
        if tasks:
            self.batches.append(list(tasks))
        for position, task in enumerate(tasks):
            began = time.perf_counter()
            pieces = self.inner.worker.run(task)
            self.seconds += time.perf_counter() - began
            yield position, pieces

    def close(self) -> None:
        """It holds nothing."""


def measure_overhead(case: Case, rounds: int, tasks: int, trials: int) -> dict[str, Any]:
    """Ray's and the driver's share of a search at default settings."""
    case = replace(case, base=replace(case.base, trials=trials))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        batches, evaluation_s, cold = run_first_search(case, folder)
        driver = repeat_known_searches(case, folder, rounds, sum(map(len, batches)))
    with start_own_cluster(1):
        real = measure_real_tasks(case.bench, _select_batches(batches, tasks), rounds)
        idle = measure_idle_tasks(case.bench, case.base.batch, rounds)
    ray_s = max(real["extra_s"], idle["batched_s"])
    return {
        "verb": "overhead", "model": case.parent.id, "precision": str(case.bench.precision), "batch": case.base.batch,
        "rungs": list(case.base.rungs), "evaluation_s": evaluation_s, "first_search": cold, "driver": driver,
        "real": real, "idle": idle, "ray_s": ray_s, "ratio": (ray_s + driver["per_evaluation_s"]) / evaluation_s,
    }  # fmt: skip


def run_first_search(case: Case, folder: Path) -> tuple[list[list[Task]], float, dict[str, Any]]:
    """For real: batches that were asked for, seconds of an evaluation, and what all of it took."""
    noting = Noting(LocalExecutor(Worker(case.bench)))
    began = time.perf_counter()
    outcome = run_search(
        case.build_problem(case.build_evaluator(noting, folder / "evaluations.jsonl"), folder / "first.db")
    )
    seconds, count = time.perf_counter() - began, sum(map(len, noting.batches))
    say(f"first search: {seconds:.1f} s, {count} evaluations of {noting.seconds / count:.3f} s")
    cold = {"seconds": seconds, "evaluations": count, "trials": outcome.trials, "loss": outcome.winner.quality.loss}
    return noting.batches, noting.seconds / count, cold | {"driver_s": seconds - noting.seconds}


def repeat_known_searches(case: Case, folder: Path, rounds: int, evaluations: int) -> dict[str, Any]:
    """The driver alone: the same search with other studies, in which nothing is evaluated; and keeping the results."""
    seconds = [_repeat_known_search(case, folder, f"known-{number}.db") for number in range(rounds + 1)][1:]
    with watch_calls((*TIMED, ("latency model", type(case.base.latency), "predict"))) as watch:
        watched = _repeat_known_search(case, folder, "watched.db")
    parts = {**watch.seconds, REST: watched - sum(watch.seconds.values())}
    search_s, keep_s = statistics.median(seconds), _time_keeping(folder)
    say(f"known search: {search_s:.2f} s (watched {watched:.2f} s); keeping: {keep_s:.2f} s")
    return {
        "search_s": search_s, "keep_s": keep_s, "per_evaluation_s": (search_s + keep_s) / evaluations,
        "watched_s": watched, "parts_s": parts, "calls": watch.calls,
    }  # fmt: skip


def _repeat_known_search(case: Case, folder: Path, study: str) -> float:
    cached_evaluator = case.build_evaluator(LocalExecutor(Worker(case.bench)), folder / "evaluations.jsonl")
    began = time.perf_counter()
    run_search(case.build_problem(cached_evaluator, folder / study))
    seconds = time.perf_counter() - began
    assert cached_evaluator.evaluations == 0, "the second search asked for what the first did not"
    return seconds


def _time_keeping(folder: Path) -> float:
    """Seconds to write what the first search found out into another file."""
    known, copy = (FileEvaluations(folder / name, "benchmark") for name in ("evaluations.jsonl", "copy.jsonl"))
    began = time.perf_counter()
    for key, quality in known._known.items():
        copy.add(key, quality)
    return time.perf_counter() - began


def _select_batches(batches: list[list[Task]], tasks: int) -> list[list[Task]]:
    """Batches from all over a search, with about so many tasks."""
    step, count = 1, sum(map(len, batches))
    while count > tasks and step < len(batches):
        step += 1
        count = sum(map(len, batches[step // 2 :: step]))
    return batches[step // 2 :: step]
