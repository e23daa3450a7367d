"""Our search against every published method at equal predicted latency: quality, evaluations, ties and losses.

    python experiments/benchmarks/search_quality.py run --model minilm --out minilm.json [--items 96] [--seeds 0,1,2]
    python experiments/benchmarks/search_quality.py run --model experiments/benchmarks/decoders/gpt2 \
        --data experiments/reference/python-lm/data --items 16 --precision bf16 --out gpt2.json
    python experiments/benchmarks/search_quality.py optima --model minilm --items 96 --out minilm-optima.json
    python experiments/benchmarks/search_report.py minilm.json [...] [--optima minilm-optima.json] [--figure out.png]

All methods work to the same budgets through the same latency model (the data sheet of `--target`, so that a run can be
repeated anywhere), on the same validation items in the same arithmetic. What they find is judged on the test split.
A method is compared with our best candidate at the latency that it reached, for which we search again.
`optima` evaluates every pattern of attentions and MLPs: for small depths only.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from latency_models.targets import find_target
from nas.execution.evaluation_cache import CachedEvaluator
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel, load_parent_model
from nas.pipeline.evaluator import build_evaluator, list_rungs
from nas.profiling.choose_workload import choose_default_workload
from nas.profiling.latency_model import load_latency_model
from nas.progress import Silent
from nas.quality import Evaluator, Quality, choose_evaluator
from nas.search import Candidate, Problem, run_search
from nas.search.methods import METHODS, add_back, drop_as_published
from pruning.analysis.redundancy import Redundancy, measure_redundancy
from search_spaces.architecture import Architecture
from search_spaces.kinds import Kind
from search_spaces.space import is_empty
from search_spaces.unit import Unit

BUDGETS = (0.9, 0.8, 0.7, 0.6, 0.5)
SEEDED = ("random", "evopress")  # whose results depend on the seed


@dataclass
class Counter:
    """Counts what one method evaluates, whoever computed it first: each item of an architecture once."""

    cached_evaluator: CachedEvaluator
    items: int
    asked: dict[Architecture, int] = field(default_factory=dict)

    def __call__(self, architecture: Architecture, items: int | None = None) -> Quality:
        count = self.items if items is None else min(items, self.items)
        if architecture.choices:  # the parent's loss is 0 by definition
            self.asked[architecture] = max(count, self.asked.get(architecture, 0))
        return self.cached_evaluator(architecture, count)

    @property
    def cost(self) -> dict[str, float]:
        """Architectures evaluated, and the same in units of one on all items."""
        whole = sum(self.asked.values()) / self.items
        return {"evaluations": len(self.asked), "full_evaluations": round(whole, 2)}


@dataclass(frozen=True)
class Bench:
    """One model, ready to be searched."""

    parent: ParentModel
    evaluator: Evaluator
    cached_evaluator: CachedEvaluator
    redundancy: Redundancy
    items: int
    base: Problem
    tested: dict[Architecture, Quality] = field(default_factory=dict)

    def build_problem(self, share: float, seed: int, counter: Counter) -> Problem:
        parent_ms = self.base.predict_ms(self.base.space.parent)
        return replace(self.base, evaluate=counter, budget_ms=share * parent_ms, seed=seed)

    def evaluate_held_out(self, architecture: Architecture) -> Quality:
        if architecture not in self.tested:
            self.tested[architecture] = self.cached_evaluator.evaluate_in_full(architecture, "test")
        return self.tested[architecture]


def prepare(
    model: str, target: str, items: int | None = None, data: Path | None = None, precision: str = "fp32"
) -> Bench:
    parent, progress = load_parent_model(model, data), Silent()
    device = find_target(target)
    workload = choose_default_workload(parent, device)
    evaluator = choose_evaluator(parent.model, parent.dataset)
    count = min(items or len(parent.dataset.validation), len(parent.dataset.validation))
    cached_evaluator = build_evaluator(parent, evaluator, precision=precision, items=count)
    redundancy = measure_redundancy(parent.model, parent.dataset.calibration.iterate_batches(4), parent.anatomy)
    base = Problem(
        space=parent.anatomy.build_space((Kind.ATTENTION, Kind.MLP)),
        evaluate=cached_evaluator,
        latency=load_latency_model(parent, device, workload, ParentExport(parent, progress), progress),
        budget_ms=0.0,
        percentile=90,
        redundancy=redundancy,
        storage="",
        rungs=(count,),
    )
    return Bench(parent, evaluator, cached_evaluator, redundancy, count, base)


def search_budgets(bench: Bench, seed: int) -> tuple[list[Candidate], dict]:
    """All budgets in one study: what was judged on all items, and what that cost, over all budgets together."""
    counter, began = Counter(bench.cached_evaluator, bench.items), time.perf_counter()
    parent_ms = bench.base.predict_ms(bench.base.space.parent)
    with tempfile.TemporaryDirectory() as folder:
        problem = replace(
            bench.build_problem(min(BUDGETS), seed, counter),
            storage=f"sqlite:///{folder}/study.db",
            rungs=list_rungs(bench.items),
            front=tuple(share * parent_ms for share in BUDGETS),
        )
        outcome = run_search(problem)
    cost = {"seconds": round(time.perf_counter() - began, 1), "trials": outcome.trials, **counter.cost}
    return [c for c in outcome.candidates if c.full], cost


def run_ours(bench: Bench, seed: int) -> dict:
    """The best at every budget, and everything else that was judged on all items."""
    pool, cost = search_budgets(bench, seed)
    parent_ms, cells = bench.base.predict_ms(bench.base.space.parent), {}
    for share in BUDGETS:
        best = find_best_within(pool, share * parent_ms)
        cells[str(share)] = build_cell(bench, best.architecture, best.predicted_ms, best.quality.loss)
    everything = [build_cell(bench, c.architecture, c.predicted_ms, c.quality.loss) for c in pool]
    return {"cells": cells, "pool": everything, **cost}


def run_at_reached(bench: Bench, runs: dict, seed: int, digits: int) -> dict:
    """Our search for the latencies that the other methods reached in place of the budgets."""
    parent_ms = bench.base.predict_ms(bench.base.space.parent)
    cells = [cell for done in runs.values() for cell in done["cells"].values()]
    # Latencies whose shares of the parent's agree to so many digits are one level, the least of them.
    reached = {round(cell["ms"] / parent_ms, digits): cell["ms"] for cell in sorted(cells, key=lambda c: -c["ms"])}
    levels = tuple(sorted(ms * (1 + 1e-9) for share, ms in reached.items() if share < 1.0))  # sums differ in a last bit
    counter = Counter(bench.cached_evaluator, bench.items)
    with tempfile.TemporaryDirectory() as folder:
        problem = replace(
            bench.build_problem(1.0, seed, counter),
            budget_ms=levels[0],
            storage=f"sqlite:///{folder}/study.db",
            rungs=list_rungs(bench.items),
            front=levels,
        )
        pool = [c for c in run_search(problem).candidates if c.full]
    reached_cells = [build_cell(bench, c.architecture, c.predicted_ms, c.quality.loss) for c in pool]
    return {"levels": len(levels), "pool": reached_cells, **counter.cost}


def find_best_within(pool: list[Candidate], budget_ms: float) -> Candidate:
    return min((c for c in pool if c.predicted_ms <= budget_ms + 1e-9), key=lambda c: c.quality.loss)


def build_cell(bench: Bench, architecture: Architecture, ms: float, loss: float) -> dict:
    quality = bench.evaluate_held_out(architecture)
    return {
        "words": architecture.words,
        "ms": ms,
        "validation": loss,
        "test": quality.loss,
        "per_item": [round(value, 7) for value in quality.per_item],
    }


def run_method(bench: Bench, name: str, seed: int) -> dict:
    """As published and with add-back, at every budget; evaluations are counted over all budgets together."""
    counter, began, cells = Counter(bench.cached_evaluator, bench.items), time.perf_counter(), {}
    for share in BUDGETS:
        problem = bench.build_problem(share, seed, counter)
        order = METHODS[name].find_removal_order(problem)
        if order is None:
            continue
        for label, architecture in (("", drop_as_published(problem, order)), ("+add-back", add_back(problem, order))):
            loss = bench.cached_evaluator(architecture, bench.items).loss
            cells[f"{share}{label}"] = build_cell(bench, architecture, problem.predict_ms(architecture), loss)
    return {"cells": cells, "seconds": round(time.perf_counter() - began, 1), **counter.cost}


def run(bench: Bench, target: str, seeds: list[int], methods: list[str], out: Path, digits: int) -> None:
    model, latency = Path(bench.parent.id).name, bench.base.latency
    document = json.loads(out.read_text()) if out.exists() else {"model": model, "target": target, "runs": {}}
    document |= {
        "items": bench.items,
        "parent_ms": bench.base.predict_ms(bench.base.space.parent),
        "label": latency.label,
    }
    for name, seed in itertools.product(["nas", *methods], seeds):
        key = f"{name}/{seed}"
        if key in document["runs"] or (name not in ("nas", *SEEDED) and seed != seeds[0]):
            continue
        document["runs"][key] = run_ours(bench, seed) if name == "nas" else run_method(bench, name, seed)
        out.write_text(json.dumps(document) + "\n")
        done = document["runs"][key]
        print(f"{model} {key}: {done['evaluations']} evaluations, {done['seconds']} s", file=sys.stderr, flush=True)
    document["reached"] = run_at_reached(bench, document["runs"], seeds[0], digits)
    out.write_text(json.dumps(document) + "\n")


def find_optima(bench: Bench, target: str, out: Path) -> None:
    """Every pattern on the validation items, depth first so that neighbours share prefixes; the best per budget."""
    space, parent_ms = bench.base.space, bench.base.predict_ms(bench.base.space.parent)
    units = [Unit(layer, kind) for layer in range(space.depth) for kind in (Kind.ATTENTION, Kind.MLP)]
    losses = {}
    for choice in itertools.product((False, True), repeat=len(units)):
        architecture = space.decode({unit for unit, drop in zip(units, choice, strict=True) if drop})
        if not is_empty(architecture):
            losses[architecture] = bench.cached_evaluator(architecture, bench.items).loss
            if len(losses) % 256 == 0:
                print(f"{len(losses)} of {2 ** len(units) - 1}", file=sys.stderr, flush=True)
    best = {}
    for share in BUDGETS:
        fitting = [a for a in losses if bench.base.predict_ms(a) <= share * parent_ms + 1e-9]
        optimum = min(fitting, key=losses.__getitem__)
        best[str(share)] = {"words": optimum.words, "loss": losses[optimum], "ms": bench.base.predict_ms(optimum)}
    model = Path(bench.parent.id).name
    document = {"model": model, "target": target, "items": bench.items, "patterns": len(losses), "best": best}
    out.write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=("run", "optima"))
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--data", type=Path, help="data of a model that is no reference model")
    parser.add_argument("--target", default="jetson-orin")
    parser.add_argument("--items", type=int, help="of the validation split; default: all")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of all validation losses")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--batch", type=int, default=1, help="trials of ours that are proposed together")
    parser.add_argument("--digits", type=int, default=3, help="of the share of latency that makes a level of its own")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    bench = prepare(arguments.model, arguments.target, arguments.items, arguments.data, arguments.precision)
    bench = replace(bench, base=replace(bench.base, batch=arguments.batch))
    if arguments.verb == "optima":
        find_optima(bench, arguments.target, arguments.out)
    else:
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        methods = [name for name in arguments.methods.split(",") if name]
        run(bench, arguments.target, seeds, methods, arguments.out, arguments.digits)


if __name__ == "__main__":
    main()
