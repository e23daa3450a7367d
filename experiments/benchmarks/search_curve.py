"""Quality over what it cost: our search and EvoPress at one budget, in validation tokens (or items) evaluated.

    python experiments/benchmarks/search_curve.py --model python-lm [--items 16] [--precision bf16] [--figure curve.png]

Each item of an architecture counts once; scoring single units and the way down count for us. What is drawn is what a
method would answer if it were stopped there: the best within the budget of those it has judged on as many items as its
choices are made on, by its loss on all items.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from search_quality import Bench, Counter, prepare

from nas.pipeline.evaluator import list_rungs
from nas.quality import Quality
from nas.search import run_search
from nas.search.methods import METHODS, add_back
from search_spaces.architecture import Architecture

SHARE = 0.6
AS_GOOD = 1.01  # times the other's loss: differences below a hundredth are less than the test split can tell


@dataclass
class Logged(Counter):
    """Also remembers in which order."""

    log: list[tuple[int, Architecture, int]] = field(default_factory=list)

    def __call__(self, architecture: Architecture, items: int | None = None) -> Quality:
        before = self.asked.get(architecture, 0)
        quality = super().__call__(architecture, items)
        if self.asked.get(architecture, 0) > before:
            self.log.append((sum(self.asked.values()), architecture, quality.items))
        return quality


def compute_curve(bench: Bench, counter: Logged, enough: int, budget_ms: float) -> list[tuple[int, float]]:
    """(items so far, full validation loss of what would be the answer), where it changes."""
    best, answer, points = float("inf"), None, []
    for spent, architecture, items in counter.log:
        if items < enough or bench.base.predict_ms(architecture) > budget_ms + 1e-9:
            continue
        loss = bench.cached_evaluator(architecture, enough).loss
        if loss < best:
            best, answer = loss, architecture
            points.append((spent, bench.cached_evaluator(answer, bench.items).loss))
    return [*points, (counter.log[-1][0], points[-1][1])]


def run_ours(bench: Bench, seed: int) -> list[tuple[int, float]]:
    counter, steps = Logged(bench.cached_evaluator, bench.items), list_rungs(bench.items)
    with tempfile.TemporaryDirectory() as folder:
        problem = bench.build_problem(SHARE, seed, counter)
        run_search(replace(problem, storage=f"sqlite:///{folder}/study.db", rungs=steps))
    return compute_curve(bench, counter, steps[-2], problem.budget_ms)


def run_evopress(bench: Bench, seed: int) -> list[tuple[int, float]]:
    counter = Logged(bench.cached_evaluator, bench.items)
    problem = bench.build_problem(SHARE, seed, counter)
    add_back(problem, METHODS["evopress"].find_removal_order(problem) or ())
    return compute_curve(bench, counter, bench.items, problem.budget_ms)


def find_needed(ours: list[tuple[int, float]], level: float) -> int | None:
    """What ours had spent when it first was as good as `level`, and stayed so."""
    worse = [position for position, (_, loss) in enumerate(ours) if loss > AS_GOOD * level]
    after = ours[worse[-1] + 1 :] if worse else ours
    return after[0][0] if after else None


def draw(curves: dict[str, list[list[tuple[int, float]]]], per_item: int, model: str, out: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    picture, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for (name, runs), colour in zip(curves.items(), ("black", "tab:orange"), strict=True):
        for number, run in enumerate(runs):
            x, y = zip(*((spent * per_item, loss) for spent, loss in run), strict=True)
            axes.step(x, y, where="post", color=colour, alpha=0.8, label=name if number == 0 else None)
    axes.set_xscale("log")
    axes.set_xlabel("validation tokens evaluated" if per_item > 1 else "validation items evaluated")
    axes.set_ylabel("validation loss of the answer so far")
    axes.set_title(f"{model}, {SHARE} of the parent's latency")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    picture.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="python-lm")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--target", default="jetson-orin")
    parser.add_argument("--items", type=int)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path, help="the curves as JSON")
    arguments = parser.parse_args()
    bench = prepare(arguments.model, arguments.target, arguments.items, arguments.data, arguments.precision)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    curves = {
        "nas": [run_ours(bench, seed) for seed in seeds],
        "EvoPress": [run_evopress(bench, seed) for seed in seeds],
    }
    ids = bench.parent.dataset.validation.inputs.get("input_ids")
    per_item = 1 if ids is None else ids.shape[1]
    print("| seed | EvoPress, final loss | after tokens | nas, final loss | as good after tokens | share |")
    print("|---|---|---|---|---|---|")
    shares = []
    for seed, ours, theirs in zip(seeds, *curves.values(), strict=True):
        (spent, level), evaluations = theirs[-1], find_needed(ours, theirs[-1][1])
        shares.append(float("inf") if evaluations is None else evaluations / spent)
        reached = "never" if evaluations is None else f"{evaluations * per_item:,}"
        print(f"| {seed} | {level:.4f} | {spent * per_item:,} | {ours[-1][1]:.4f} | {reached} | {shares[-1]:.3f} |")
    print(f"\nmedian share {statistics.median(shares):.3f}")
    if arguments.out:
        arguments.out.write_text(json.dumps({"per_item": per_item, **curves}) + "\n")
    if arguments.figure:
        draw(curves, per_item, Path(bench.parent.id).name, arguments.figure)


if __name__ == "__main__":
    main()
