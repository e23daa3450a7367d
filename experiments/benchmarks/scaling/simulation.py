"""One search per batch size, recorded; then each played on several numbers of workers."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scaling.case import Case, say
from scaling.raycost import dispatch, start_own_cluster
from scaling.recording import STAGES, Durations, Staged, Trace
from scaling.virtual import Call, Played, play


def simulate(
    case: Case, batches: Sequence[int], workers: Sequence[int], trials: int | None, recorded: Path
) -> dict[str, Any]:
    """Every batch size on every number of workers.

    Args:
        trials: at most; None for the default, and at least one whole batch.
    """
    with start_own_cluster(1):
        costs = dispatch(case.parent.anatomy.depth)
    durations = Durations.open(case.bench, recorded)
    searches, runs = [], []
    for batch in batches:
        max_trials = max(case.base.trials, batch) if trials is None else trials
        search, calls = record(case, durations, batch, max_trials)
        searches.append(search)
        runs += [run | {"batch": batch} for run in (_play(play(calls, each, costs)) for each in workers)]
    one = next((run["seconds"] for run in runs if run["workers"] == 1 and run["batch"] == 1), runs[0]["seconds"])
    return {
        "verb": "simulate", "model": case.parent.id, "precision": str(case.bench.precision), "dispatch": asdict(costs),
        "head": {str(precision): share for precision, share in durations.head.items()},
        "searches": searches, "runs": [run | {"speed_up": one / run["seconds"]} for run in runs],
    }  # fmt: skip


def record(case: Case, durations: Durations, batch: int, trials: int) -> tuple[dict[str, Any], tuple[Call, ...]]:
    """A search with its calls; what nobody evaluated before is evaluated for real, which the driver's time is not."""
    began, before = time.perf_counter(), durations.evaluated
    with tempfile.TemporaryDirectory() as folder:
        trace = Trace(durations)
        cached_evaluator = case.build_evaluator(trace, Path(folder) / "evaluations.jsonl")
        problem = case.build_problem(cached_evaluator, Path(folder) / "study.db", batch, trials)
        outcome, calls = Staged(problem, trace).run(), trace.end()
    winner, seconds = outcome.winner, time.perf_counter() - began
    effort = f"{outcome.trials} trials, {durations.evaluated - before} pieces evaluated for real, {seconds:.1f} s"
    say(f"batch {batch}: loss {winner.quality.loss:.4f}, {effort}")
    return {
        "batch": batch, "most_trials": trials, "trials": outcome.trials, "evaluations": cached_evaluator.evaluations,
        "items": cached_evaluator.items, "loss": winner.quality.loss, "ms": winner.predicted_ms,
        "words": winner.architecture.words, "stages": _summarise_stages(calls),
    }, calls  # fmt: skip


def _summarise_stages(calls: Sequence[Call]) -> dict[str, dict[str, float]]:
    """How wide each stage is: calls, tasks, most at once, tasks that came alone, seconds of the driver's thought."""
    summary = {}
    for stage in STAGES:
        own = [call for call in calls if call.stage == stage]
        sizes = [len(call.jobs) for call in own if call.jobs]
        thought = sum(call.before_s for call in own)
        summary[stage] = {
            "calls": len(sizes), "tasks": sum(sizes), "most": max(sizes, default=0), "alone": sizes.count(1),
            "thought_s": thought,
        }  # fmt: skip
    return summary


def _play(played: Played) -> dict[str, Any]:
    busy = played.busy_s / (played.workers * played.seconds)
    return {
        "workers": played.workers, "seconds": played.seconds, "busy": busy, "driver_s": played.driver_s,
        "by_stage": played.by_stage, "driver_by_stage": played.driver_by_stage,
    }  # fmt: skip
