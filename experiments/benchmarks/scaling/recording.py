"""Evaluations with their durations, kept in a file; and the calls that a search makes, with the driver's own time."""

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.execution.task import Pieces, Task
from nas.execution.worker import Bench, Worker
from nas.quality.precision import Precision
from nas.quality.quality import Quality
from nas.search.engine import Engine
from nas.search.problem import SCORING, Problem
from pruning.inference.prefix_cache import list_prefixes
from scaling.virtual import Call, Job, Piece
from search_spaces.architecture import Architecture

REPEATS = 5
LIBRARY, DOWN, SEEDS, PROPOSALS, FINALS = STAGES = ("library", "way down", "seeds", "proposals", "finals")


@dataclass
class Durations:
    """Pieces of evaluations by (architecture, items, arithmetic), with the seconds that one thread takes in full.

    What is not in the file is evaluated here, with the prefix cache; the share of blocks that it saved is added again.
    The time is that of the thread, so that other work on the machine does not count.
    """

    bench: Bench
    path: Path
    head: dict[Precision, float]  # what is left of an evaluation when every block is known
    state_bytes: int  # of an item at one place
    worker: Worker
    known: dict[str, tuple[float, Quality]] = field(default_factory=dict)
    evaluated: int = 0

    @classmethod
    def open(cls, bench: Bench, path: Path) -> "Durations":
        """Read what is there; the head's share is measured once per file."""
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [_measure_head(bench)]
            path.write_text(json.dumps(lines[0]) + "\n")
        first = lines[0]
        head = {Precision(name): share for name, share in first["head"].items()}
        durations = cls(bench, path, head, first["state_bytes"], Worker(bench))
        for line in lines[1:]:
            durations.known[line["piece"]] = (
                line["seconds"],
                Quality.from_json(line["quality"], tuple(line["per_item"])),
            )
        return durations

    def recall_job(self, task: Task) -> tuple[Job, Pieces]:
        """A task as it was recorded, and what it gave."""
        results = [self._evaluate_piece(task, start, end) for start, end in zip(task.cuts, task.cuts[1:], strict=False)]
        whole, anatomy = task.architecture, self.bench.anatomy
        merged = anatomy.merge_blocks(whole)
        known, head = tuple(list_prefixes(merged)), self.head[task.precision]
        pieces = tuple(
            Piece(f"{start}:{end}", seconds, head, self.state_bytes * (end - start))
            for (start, end), (seconds, _) in zip(zip(task.cuts, task.cuts[1:], strict=False), results, strict=True)
        )
        blocks = whole.depth - len(merged.list_removed_blocks())
        return Job(task, pieces, known, blocks), tuple(quality for _, quality in results)

    def _evaluate_piece(self, task: Task, start: int, end: int) -> tuple[float, Quality]:
        name = f"{task.architecture.digest} {start}:{end} {task.precision}"
        if name not in self.known:
            seconds, quality = self._evaluate(replace(task, cuts=(start, end)))
            self.known[name] = seconds, quality
            entry = {"piece": name, "seconds": seconds, "quality": quality.to_json(), "per_item": quality.per_item}
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        return self.known[name]

    def _evaluate(self, task: Task) -> tuple[float, Quality]:
        store = self.worker.stores[task.precision]
        skipped, computed, began = store.skipped, store.computed, time.thread_time()
        quality = self.worker.run(task)[0]
        seconds, skipped, computed = time.thread_time() - began, store.skipped - skipped, store.computed - computed
        self.evaluated += 1
        saved = (1 - self.head[task.precision]) * skipped / max(1, skipped + computed)
        return seconds / (1 - saved), quality


def _measure_head(bench: Bench) -> dict[str, Any]:
    """What a resumed evaluation of the parent takes of a full one, in each arithmetic; the size of a state."""
    items, shares = 4, {}
    parent = Architecture.parent(bench.anatomy.depth)
    for precision in {bench.precision, Precision.FP32}:
        ratios = []
        for _ in range(REPEATS):
            worker, task = Worker(bench), Task(parent, (0, items), precision)
            full, resumed = (_read_thread_seconds(worker, task) for _ in range(2))
            ratios.append(min(1.0, resumed / full))
        shares[str(precision)] = statistics.median(ratios)
    state = worker.stores[precision].nbytes // (items * bench.anatomy.depth)
    return {"head": shares, "state_bytes": state}


def _read_thread_seconds(worker: Worker, task: Task) -> float:
    began = time.thread_time()
    worker.run(task)
    return time.thread_time() - began


class Trace:
    """An executor that answers from recorded evaluations, and notes who asked for what after how much thought.

    Thought is the driver's own seconds, of its thread as those of evaluations are; waiting for a disk is not in them.
    """

    def __init__(self, durations: Durations) -> None:
        self.durations, self.calls, self._stage = durations, list[Call](), LIBRARY
        self._since = time.thread_time()

    def mark(self, stage: str) -> None:
        """From here on it is another stage."""
        if stage != self._stage:
            self._note(self._measure_thought())
            self._stage, self._since = stage, time.thread_time()

    def note_message(self, phase: str, done: float, total: float) -> None:
        """What the engine says of its progress; once all units are scored, it goes down."""
        if phase == SCORING and done == total:
            self.mark(DOWN)

    def end(self) -> tuple[Call, ...]:
        """All calls, and what the driver did after the last."""
        self._note(self._measure_thought())
        return tuple(self.calls)

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Pieces]]:
        """In order."""
        thought, jobs = self._measure_thought(), []
        for position, task in enumerate(tasks):
            job, pieces = self.durations.recall_job(task)
            began = time.thread_time()
            yield position, pieces
            jobs.append(replace(job, keep_s=time.thread_time() - began))
        self._note(thought, tuple(jobs))
        self._since = time.thread_time()

    def close(self) -> None:
        """It holds nothing."""

    def _measure_thought(self) -> float:
        return time.thread_time() - self._since

    def _note(self, before_s: float, jobs: tuple[Job, ...] = ()) -> None:
        self.calls.append(Call(self._stage, before_s, jobs))


class Staged(Engine):
    """The engine, telling a trace in which stage it is."""

    def __init__(self, problem: Problem, trace: Trace) -> None:
        super().__init__(replace(problem, on_phase=trace.note_message))
        self.trace = trace

    def _solve(self, *arguments: Any) -> Any:
        self.trace.mark(SEEDS)
        return super()._solve(*arguments)

    def _propose_by_knobs(self, *arguments: Any) -> Any:
        self.trace.mark(PROPOSALS)
        return super()._propose_by_knobs(*arguments)

    def _rank(self, *arguments: Any) -> Any:
        self.trace.mark(FINALS)
        return super()._rank(*arguments)
