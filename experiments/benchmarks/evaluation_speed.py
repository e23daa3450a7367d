"""How much faster candidates are evaluated: prefix caching, growing item budgets, bf16, nothing twice; alone, together.

    python experiments/benchmarks/evaluation_speed.py [--model python-lm] [--rounds 3]

1. The one-unit sweep with and without the prefix cache, beside its ceiling 1 / (f + (1 - f) / 2), where f is the share
   of head and loss, which the cache cannot save.
2. A whole search at 0.6 of the parent's latency, replayed with one factor at a time and with all of them. Every run
   evaluates the architectures that a search asked for, in its order; only how they are evaluated differs.

Everything runs in one process, interleaved; medians of the rounds.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from latency_models.targets import find_target
from nas.latency import ParentExport, default_workload, latency_model
from nas.progress import Silent
from nas.quality import Evaluator, evaluator_for
from nas.quality.evaluations import Evaluations
from nas.quality.precision import Precision
from nas.quality.scorer import Scorer
from nas.search import Problem, run_search
from nas.service import rungs
from nas.subject import Subject, load_subject
from pruning.redundancy import measure_redundancy
from search_spaces.architecture import Architecture
from search_spaces.unit import Kind

GIB = 1 << 30
BUDGET = 0.6
SWEEP_ITEMS = 8
FACTORS = {
    "in full": {"capacity": 0, "precision": Precision.FP32, "growing": False},
    "prefix cache": {"capacity": GIB, "precision": Precision.FP32, "growing": False},
    "bf16": {"capacity": 0, "precision": Precision.BF16, "growing": False},
    "growing budgets": {"capacity": 0, "precision": Precision.FP32, "growing": True},
    "together": {"capacity": GIB, "precision": Precision.BF16, "growing": True},
}


def timed(work) -> float:  # noqa: ANN001
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def scorer_of(subject: Subject, evaluator: Evaluator, folder: Path, capacity: int, precision: Precision) -> Scorer:
    known = Evaluations(folder / f"{time.monotonic_ns()}.jsonl", "benchmark")
    return Scorer(subject.model, subject.anatomy, evaluator, known, capacity=capacity, precision=precision)


def head_share(subject: Subject, evaluator: Evaluator, rounds: int) -> float:
    """f: what is left of an evaluation when every block is known."""
    whole, trunk = [], []
    split = subject.dataset.validation
    base = getattr(subject.model, "base_model", subject.model)
    for _ in range(rounds + 1):
        whole.append(timed(lambda: evaluator.evaluate(subject.model, "validation", SWEEP_ITEMS)))

        def blocks() -> None:
            with torch.inference_mode():
                for batch in split.batches(4, SWEEP_ITEMS):
                    base(**batch, **({"use_cache": False} if subject.anatomy.is_decoder else {}))

        trunk.append(timed(blocks))
    ratios = [1 - t / w for t, w in zip(trunk[1:], whole[1:], strict=True)]
    return max(0.0, statistics.median(ratios))


def sweep(subject: Subject, evaluator: Evaluator, folder: Path, capacity: int) -> tuple[float, list[float]]:
    """Seconds of dropping every unit alone, deepest first, after the parent; and the losses."""
    scorer = scorer_of(subject, evaluator, folder, capacity, Precision.FP32)
    parent = Architecture.parent(subject.anatomy.depth)
    units = sorted(subject.anatomy.space((Kind.ATTENTION, Kind.MLP)).units, key=lambda unit: -unit.layer)
    scorer(parent, SWEEP_ITEMS)
    losses: list[float] = []
    seconds = timed(lambda: losses.extend(scorer(parent.drop(unit), SWEEP_ITEMS).loss for unit in units))
    return seconds, losses


def search(
    subject: Subject, evaluator: Evaluator, folder: Path, how: dict, base: Problem
) -> tuple[float, float, float, int]:
    """Seconds of evaluating, validation and test loss of the winner, and evaluations, of a whole search."""
    items = len(subject.dataset.validation)
    scorer = scorer_of(subject, evaluator, folder, how["capacity"], how["precision"])
    spent = [0.0]

    def evaluate(architecture: Architecture, count: int | None = None):  # noqa: ANN202
        began = time.perf_counter()
        # bf16 alone: the score of all items is asked for as of all but one, which is not in fp32.
        full = items - 1 if how["precision"] is Precision.BF16 and not how["growing"] else items
        quality = scorer(architecture, min(count or items, full))
        spent[0] += time.perf_counter() - began
        return quality

    steps = rungs(items) if how["growing"] else (items,)
    problem = replace(base, evaluate=evaluate, rungs=steps, storage=f"sqlite:///{folder}/{time.monotonic_ns()}.db")
    winner = run_search(problem).winner
    seconds = spent[0]
    return seconds, winner.quality.loss, scorer.in_full(winner.architecture, "test").loss, scorer.evaluations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="python-lm")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    subject, target = load_subject(arguments.model), find_target("jetson-orin")
    evaluator = evaluator_for(subject.model, subject.dataset)
    evaluator.evaluate(subject.model, "validation")  # the parent's outputs are stored once
    workload, export = default_workload(subject, target), ParentExport(subject, Silent())
    latency = latency_model(subject, target, workload, export, Silent())
    space = subject.anatomy.space((Kind.ATTENTION, Kind.MLP))
    redundancy = measure_redundancy(subject.model, subject.dataset.calibration.batches(4), subject.anatomy)
    budget = BUDGET * latency.predict(space.parent, 90).ms
    base = Problem(space, evaluator.evaluate, latency, budget, 90, redundancy, "sqlite://")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report_sweep(subject, evaluator, folder, arguments.rounds)
        report_search(subject, evaluator, folder, arguments.rounds, base)


def report_sweep(subject: Subject, evaluator: Evaluator, folder: Path, rounds: int) -> None:
    share = head_share(subject, evaluator, rounds)
    ceiling, ratios = 1 / (share + (1 - share) / 2), []
    for _ in range(rounds):
        (plain, expected), (cached, found) = (sweep(subject, evaluator, folder, c) for c in (0, GIB))
        assert max(abs(a - b) for a, b in zip(expected, found, strict=True)) <= 1e-6
        ratios.append(plain / cached)
    got = statistics.median(ratios)
    print(
        f"one-unit sweep: f {share:.3f}, ceiling {ceiling:.2f} x, prefix cache {got:.2f} x = {got / ceiling:.0%} of it"
    )


def report_search(subject: Subject, evaluator: Evaluator, folder: Path, rounds: int, base: Problem) -> None:
    runs: dict[str, list[tuple[float, float, float, int]]] = {name: [] for name in FACTORS}
    for _ in range(rounds):
        for name, how in FACTORS.items():
            runs[name].append(search(subject, evaluator, folder, how, base))
    print("| evaluation | seconds | faster | evaluations | validation loss | test loss |\n|---|---|---|---|---|---|")
    for name, found in runs.items():
        ratio = statistics.median(full[0] / one[0] for full, one in zip(runs["in full"], found, strict=True))
        _, validation, test, evaluations = found[0]
        seconds = statistics.median(one[0] for one in found)
        print(f"| {name} | {seconds:.1f} | {ratio:.2f} x | {evaluations} | {validation:.4f} | {test:.4f} |")


if __name__ == "__main__":
    main()
