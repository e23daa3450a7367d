"""How much faster candidates are evaluated: prefix caching, growing item budgets, bf16, nothing twice; alone, together.

    python experiments/benchmarks/evaluation_speed.py [--model python-lm] [--items 12] [--rounds 3]

1. The one-unit sweep with and without the prefix cache, beside its ceiling 1 / (f + (1 - f) / 2), where f is the share
   of head and loss, which the cache cannot save.
2. A whole search at 0.6 of the parent's latency with one factor at a time and with all of them. Without growing budgets
   every architecture that is asked for is judged on all items; what is asked for more often than it is evaluated
   shows what forgetting would cost.

Everything runs in one process, interleaved; medians of the rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from latency_models.targets import find_target
from nas.data.dataset import Dataset, Split
from nas.execution.evaluation_cache import CachedEvaluator
from nas.execution.worker import Bench as Equipment
from nas.execution.worker import LocalExecutor, Worker
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel, load_parent_model
from nas.pipeline.evaluator import list_rungs
from nas.profiling.choose_workload import choose_default_workload
from nas.profiling.latency_model import load_latency_model
from nas.progress import Silent
from nas.quality import Evaluator, Quality, choose_evaluator
from nas.quality.evaluations import FileEvaluations
from nas.quality.precision import Precision
from nas.search import Problem, run_search
from pruning.analysis.redundancy import measure_redundancy
from search_spaces.architecture import Architecture
from search_spaces.kinds import Kind

GIB = 1 << 30
BUDGET = 0.6
SWEEP_ITEMS = 8


@dataclass(frozen=True)
class How:
    """The way candidates are evaluated."""

    name: str
    capacity: int = 0
    precision: Precision = Precision.FP32
    growing: bool = False


PLAIN = How("in full")
FACTORS = (
    PLAIN,
    How("prefix cache", capacity=GIB),
    How("bf16", precision=Precision.BF16),
    How("growing budgets", growing=True),
    How("together", GIB, Precision.BF16, True),
)


@dataclass
class Timed:
    """Evaluates for a search, and sees how long it takes until the first trial and from there on."""

    cached_evaluator: CachedEvaluator
    before: float = 0.0  # seconds of scoring units and of the way down
    trials: float = 0.0
    asked: int = 0
    in_trials: bool = False

    def __call__(self, architecture: Architecture, items: int | None = None) -> Quality:
        began = time.perf_counter()
        quality = self.cached_evaluator(architecture, items)
        spent = time.perf_counter() - began
        self.asked += 1
        if self.in_trials:
            self.trials += spent
        else:
            self.before += spent
        return quality

    def on_trial(self, ended: int, note: str) -> None:
        self.in_trials = self.in_trials or ended > 0


@dataclass(frozen=True)
class Run:
    """What one search cost and found."""

    seconds: float
    trials: float
    evaluations: int
    asked: int
    validation: float
    test: float
    peak_mib: float


@dataclass(frozen=True)
class Bench:
    parent: ParentModel
    evaluator: Evaluator
    folder: Path

    def build_evaluator(self, how: How, cuts: tuple[int, ...] = ()) -> CachedEvaluator:
        known = FileEvaluations(self.folder / f"{time.monotonic_ns()}.jsonl", "benchmark")
        equipment = Equipment(self.parent.model, self.parent.anatomy, self.evaluator, how.precision, how.capacity)
        return CachedEvaluator(self.evaluator, known, LocalExecutor(Worker(equipment)), how.precision, cuts)

    def search(self, how: How, base: Problem) -> Run:
        items = len(self.evaluator.dataset.validation)
        steps = list_rungs(items) if how.growing else (items,)
        timed = Timed(self.build_evaluator(how, steps))
        storage = f"sqlite:///{self.folder}/{time.monotonic_ns()}.db"
        problem = replace(base, evaluate=timed, rungs=steps, storage=storage, on_trial=timed.on_trial)
        winner = run_search(problem).winner
        test = timed.cached_evaluator.evaluate_in_full(winner.architecture, "test").loss
        peak = max(store.nbytes for store in timed.cached_evaluator.executor.worker.stores.values()) / (1 << 20)
        evaluations, seconds = timed.cached_evaluator.evaluations, timed.before + timed.trials
        return Run(seconds, timed.trials, evaluations, timed.asked, winner.quality.loss, test, peak)


def measure_seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_head_share(bench: Bench, rounds: int) -> float:
    """f: what is left of an evaluation when every block is known."""
    model, whole, trunk = bench.parent.model, [], []
    split, base = bench.evaluator.dataset.validation, getattr(model, "base_model", model)
    more = {"use_cache": False} if bench.parent.anatomy.is_decoder else {}

    @torch.inference_mode()
    def run_blocks() -> None:
        for batch in split.iterate_batches(4, SWEEP_ITEMS):
            base(**batch, **more)

    for _ in range(rounds + 1):
        whole.append(measure_seconds(lambda: bench.evaluator.evaluate(model, "validation", SWEEP_ITEMS)))
        trunk.append(measure_seconds(run_blocks))
    ratios = [1 - t / w for t, w in zip(trunk[1:], whole[1:], strict=True)]
    return max(0.0, statistics.median(ratios))


def sweep(bench: Bench, how: How) -> tuple[float, list[float]]:
    """Seconds of dropping every unit alone, deepest first, after the parent; and the losses."""
    cached_evaluator, anatomy = bench.build_evaluator(how), bench.parent.anatomy
    parent = Architecture.parent(anatomy.depth)
    units = sorted(anatomy.build_space((Kind.ATTENTION, Kind.MLP)).choices, key=lambda unit: -unit.layer)
    cached_evaluator(parent, SWEEP_ITEMS)
    losses: list[float] = []
    seconds = measure_seconds(
        lambda: losses.extend(cached_evaluator(parent.drop(unit), SWEEP_ITEMS).loss for unit in units)
    )
    return seconds, losses


def report_sweep(bench: Bench, rounds: int) -> None:
    share = measure_head_share(bench, rounds)
    ceiling, ratios = 1 / (share + (1 - share) / 2), []
    for _ in range(rounds):
        (plain, expected), (cached, losses) = (sweep(bench, how) for how in FACTORS[:2])
        assert max(abs(a - b) for a, b in zip(expected, losses, strict=True)) <= 1e-6
        ratios.append(plain / cached)
    got = statistics.median(ratios)
    reached = f"prefix cache {got:.2f} x = {got / ceiling:.0%} of it"
    print(f"one-unit sweep: f {share:.3f}, ceiling {ceiling:.2f} x, {reached}\n")


def report_search(bench: Bench, rounds: int, base: Problem) -> None:
    runs: dict[str, list[Run]] = {how.name: [] for how in FACTORS}
    for _ in range(rounds):
        for how in FACTORS:
            runs[how.name].append(bench.search(how, base))
    print("| evaluation | seconds | faster | trials alone | evaluated | asked | loss | test loss | states, MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, measured in runs.items():
        pairs = list(zip(runs[PLAIN.name], measured, strict=True))
        whole = statistics.median(plain.seconds / one.seconds for plain, one in pairs)
        trials = statistics.median(plain.trials / one.trials for plain, one in pairs)
        seconds, one = statistics.median(run.seconds for run in measured), measured[0]
        print(
            f"| {name} | {seconds:.1f} | {whole:.2f} x | {trials:.2f} x | {one.evaluations} | {one.asked} "
            f"| {one.validation:.4f} | {one.test:.4f} | {one.peak_mib:.0f} |"
        )


def shorten(dataset: Dataset, items: int | None) -> Dataset:
    """The dataset with the first validation items only."""
    split = dataset.validation
    inputs = {name: tensor[:items] for name, tensor in split.inputs.items()}
    labels = None if split.labels is None else split.labels[:items]
    return replace(dataset, validation=Split(split.name, inputs, labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="python-lm")
    parser.add_argument("--items", type=int, help="validation items; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    parent, target = load_parent_model(arguments.model), find_target("jetson-orin")
    evaluator = choose_evaluator(parent.model, shorten(parent.dataset, arguments.items))
    evaluator.evaluate(parent.model, "validation")  # the parent's outputs are stored once
    workload, export = choose_default_workload(parent, target), ParentExport(parent, Silent())
    latency = load_latency_model(parent, target, workload, export, Silent())
    space = parent.anatomy.build_space((Kind.ATTENTION, Kind.MLP))
    redundancy = measure_redundancy(parent.model, parent.dataset.calibration.iterate_batches(4), parent.anatomy)
    budget = BUDGET * latency.predict(space.parent, 90).ms
    base = Problem(space, evaluator.evaluate, latency, budget, 90, redundancy, "sqlite://")
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(parent, evaluator, Path(name))
        report_sweep(bench, arguments.rounds)
        report_search(bench, arguments.rounds, base)


if __name__ == "__main__":
    main()
