"""One model and one search at default settings, as `nas search --target jetson-orin --budget 0.6x` would run it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latency_models.targets import find_target
from nas.execution.evaluation_cache import CachedEvaluator
from nas.execution.task import Executor, Task
from nas.execution.task_scheduling import Shares
from nas.execution.worker import Bench
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel, load_parent_model
from nas.pipeline.evaluator import list_rungs
from nas.profiling.choose_workload import choose_default_workload
from nas.profiling.latency_model import load_latency_model
from nas.progress import Silent
from nas.quality import choose_evaluator
from nas.quality.evaluations import FileEvaluations
from nas.quality.precision import choose_precision
from nas.request.search_request import BATCH
from nas.search.problem import Problem
from pruning.analysis.redundancy import measure_redundancy
from search_spaces.kinds import STRUCTURE

TARGET, BUDGET, PERCENTILE = "jetson-orin", 0.6, 90  # data sheet: the same everywhere


@dataclass(frozen=True)
class Case:
    """What every verb works with; `base` lacks who evaluates and where the study is."""

    parent: ParentModel
    bench: Bench
    base: Problem

    @property
    def content(self) -> str:
        """Names weights, data and metric."""
        evaluator = self.bench.evaluator
        return f"{self.parent.digest}/{evaluator.dataset.validation.digest}/{evaluator.metric}"

    def build_evaluator(self, executor: Executor, evaluations: Path) -> CachedEvaluator:
        """With the evaluations of a file for a memory."""
        known = FileEvaluations(evaluations, "benchmark")
        return CachedEvaluator(
            self.bench.evaluator, known, executor, self.bench.precision, tuple(filter(None, self.base.rungs))
        )

    def build_problem(
        self, cached_evaluator: CachedEvaluator, study: Path, batch: int = BATCH, trials: int | None = None
    ) -> Problem:
        """A search as `--executor ray` makes it, its study in SQLite."""
        changes = {
            "evaluate": cached_evaluator,
            "prefetch": cached_evaluator.prefetch,
            "storage": f"sqlite:///{study}",
            "batch": batch,
        }
        return replace(self.base, **changes, trials=self.base.trials if trials is None else trials)


def prepare(model: str) -> Case:
    parent, target = load_parent_model(model), find_target(TARGET)
    evaluator = choose_evaluator(parent.model, parent.dataset)
    evaluator.evaluate(parent.model, "validation")  # the parent's outputs are stored once
    workload, export = choose_default_workload(parent, target), ParentExport(parent, Silent())
    latency = load_latency_model(parent, target, workload, export, Silent())
    space = parent.anatomy.build_space(STRUCTURE)
    redundancy = measure_redundancy(parent.model, parent.dataset.calibration.iterate_batches(4), parent.anatomy)
    budget = BUDGET * latency.predict(space.parent, PERCENTILE).ms
    steps = list_rungs(len(parent.dataset.validation))
    base = Problem(space, evaluator.evaluate, latency, budget, PERCENTILE, redundancy, "", steps, batch=BATCH)
    return Case(parent, Bench(parent.model, parent.anatomy, evaluator, choose_precision("auto")), base)


def order_as_shared(tasks: Sequence[Task]) -> list[Task]:
    """As one worker of a cluster gets them: each resumes from the one before."""
    shares = Shares(tasks, 1)
    positions = (shares.take_next(0) for _ in tasks)
    return [tasks[position] for position in positions if position is not None]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
