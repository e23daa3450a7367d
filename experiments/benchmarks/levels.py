"""What choosing how much of each part stays is worth: test loss of drops only against widths and heads beside them.

    python experiments/benchmarks/levels.py run --model experiments/benchmarks/decoders/gpt2 \
        --data experiments/reference/python-lm/data --items 16 --out gpt2-levels.json [--budgets 0.7,0.5] [--windows 24]
    python experiments/benchmarks/levels.py report gpt2-levels.json [...]

Every space is searched with the same compensation, seeds, trials and latency model (the data sheet of `--target`, so
that a run can be repeated anywhere), all budgets in one study. Winners are judged on the test split. `uniform` is no
search: the same share of all MLPs and heads, the largest of some that meets the budget. `flap` and `wanda-sp` are the
published methods, with the compensation of all others in place of theirs.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from compensation import describe_processor
from search_quality import Bench, Counter, find_best_within, prepare

from nas.pipeline.channel_orders import list_channels
from nas.pipeline.compensation import pick_items, plan_compensation
from nas.pipeline.evaluator import build_evaluator, list_rungs
from nas.pipeline.problem import MAX_TIED
from nas.quality import Quality
from nas.quality.precision import choose_precision
from nas.request.choices import AUTO
from nas.search import run_search
from nas.search.methods import WIDTH_METHODS
from pruning.analysis import order_channels
from pruning.analysis.channel_orders import DEFAULT_CRITERION
from search_spaces.architecture import Architecture
from search_spaces.unit import list_kinds

DROPS = ("attention", "mlp")
SPACES = {
    "drops": DROPS,
    "drops, widths": (*DROPS, "mlp-width"),
    "drops, widths, heads": (*DROPS, "mlp-width", "attention-heads"),
}
UNIFORM = "uniform"
ORDERED = 32  # calibration items by which channels are ordered, at most


def run(options: argparse.Namespace) -> None:
    """Every space at every seed; written after each, so that a run can be continued."""
    bench = build_bench(options)
    budgets, out = tuple(map(float, options.budgets.split(","))), options.out
    document = json.loads(out.read_text()) if out.exists() else {"model": Path(bench.parent.id).name, "runs": {}}
    document |= {"processor": describe_processor(), "windows": options.windows, "items": bench.items}
    chosen = options.spaces.split(";") if options.spaces else [*SPACES, UNIFORM, *WIDTH_METHODS]
    for key in (f"{name}/{seed}" for seed in options.seeds.split(",") for name in chosen):
        if key not in document["runs"]:
            name, _, seed = key.partition("/")
            if name in WIDTH_METHODS:
                found = narrow(options, name, budgets)
            else:
                found = cut_alike(bench, budgets) if name == UNIFORM else search(bench, name, budgets, int(seed))
            document["runs"][key] = found
            out.write_text(json.dumps(document) + "\n")
            print(key, {share: round(cell["test"], 4) for share, cell in found["cells"].items()}, flush=True)


def build_bench(options: argparse.Namespace, criterion: str = DEFAULT_CRITERION) -> Bench:
    """One model, whose channels are ordered by a criterion, with candidates that are adjusted."""
    bench = prepare(options.model, options.target, options.items, options.data, options.precision)
    items = pick_items(bench.parent.dataset.calibration, ORDERED)
    order_channels(bench.parent.placed, bench.parent.anatomy, items, criterion)
    return add_compensation(bench, options)


def narrow(options: argparse.Namespace, name: str, budgets: tuple[float, ...]) -> dict[str, Any]:
    """What a published method makes of widths and heads, with the compensation of all others."""
    method = WIDTH_METHODS[name]
    bench = build_bench(options, method.criterion)
    parent, anatomy = bench.parent, bench.parent.anatomy
    space = anatomy.build_space(("mlp-width", "attention-heads"))
    channels = list_channels(parent.placed, anatomy, space.choices)
    cells = {}
    for share in budgets:
        budget = share * bench.base.predict_ms(bench.base.space.parent)
        found = method.choose_architecture(replace(bench.base, space=space, channels=channels, budget_ms=budget))
        if found is not None:
            cells[str(share)] = describe(bench, found)
    return {"cells": cells, "cost": {}}


def add_compensation(bench: Bench, options: argparse.Namespace) -> Bench:
    """The same, for candidates that are adjusted; those of the last rung with all calibration items, as in a search."""
    precision = choose_precision(options.precision, bench.parent.device)
    plan = plan_compensation(bench.parent, bench.evaluator, AUTO, precision)
    assert plan is not None
    if options.windows is not None:
        plan = replace(plan, final={name: tensor[: options.windows] for name, tensor in plan.final.items()})
    cached = build_evaluator(
        bench.parent, bench.evaluator, precision=options.precision, items=bench.items, compensation=plan
    )
    return replace(
        bench, base=replace(bench.base, removes_blocks=True, max_tied=MAX_TIED), cached_evaluator=cached, tested={}
    )


def search(bench: Bench, name: str, budgets: tuple[float, ...], seed: int) -> dict[str, Any]:
    """What is found in one space at every budget, and what that cost."""
    counter, began = _Counter(bench.cached_evaluator, bench.items), time.process_time()
    parent_ms = bench.base.predict_ms(bench.base.space.parent)
    with tempfile.TemporaryDirectory() as folder:
        problem = replace(
            bench.base,
            space=bench.parent.anatomy.build_space(SPACES[name]),
            evaluate=counter,
            budget_ms=min(budgets) * parent_ms,
            seed=seed,
            storage=f"sqlite:///{folder}/study.db",
            rungs=list_rungs(bench.items),
            front=tuple(share * parent_ms for share in budgets),
        )
        outcome = run_search(problem)
    pool = [candidate for candidate in outcome.candidates if candidate.full]
    cost = {"cpu_seconds": round(time.process_time() - began), "trials": outcome.trials, **counter.cost}
    found = {str(share): find_best_within(pool, share * parent_ms).architecture for share in budgets}
    return {"cells": {share: describe(bench, architecture) for share, architecture in found.items()}, "cost": cost}


def cut_alike(bench: Bench, budgets: tuple[float, ...]) -> dict[str, Any]:
    """The same levels for all parts of a kind, the largest of those that meet each budget."""
    parent, anatomy = bench.base.space.parent, bench.parent.anatomy
    kinds = {"mlp-width", "attention-heads"}
    levels = {c.level for c in anatomy.choices if list_kinds(c) <= kinds}
    rows = sorted({tuple(c for c in anatomy.choices if c.level in pair) for pair in _pair(levels)}, key=len)
    cut = [Architecture(parent.depth, frozenset(row)) for row in rows if row]
    fitting = {
        str(share): [each for each in cut if bench.base.predict_ms(each) <= share * bench.base.predict_ms(parent)]
        for share in budgets
    }
    largest = {share: max(some, key=bench.base.predict_ms) for share, some in fitting.items() if some}
    return {"cells": {share: describe(bench, architecture) for share, architecture in largest.items()}, "cost": {}}


def _pair(levels: set[Any]) -> list[set[Any]]:
    """A level of widths, one of heads, and one of each."""
    axes = {axis: [level for level in levels if level.axes[0][0] == axis] for axis in {lv.axes[0][0] for lv in levels}}
    pairs: list[set[Any]] = [set()]
    for some in axes.values():
        pairs += [pair | {level} for pair in pairs for level in some]
    return pairs


def describe(bench: Bench, architecture: Architecture) -> dict[str, Any]:
    """A winner, judged on the test split."""
    quality = bench.evaluate_held_out(architecture)
    return {"words": architecture.words, "ms": bench.base.predict_ms(architecture), "test": quality.loss}


class _Counter(Counter):
    """As in a search, evaluations on all items are of candidates as they are delivered."""

    def __call__(self, architecture: Architecture, items: int | None = None) -> Quality:
        count = self.items if items is None else min(items, self.items)
        if architecture.choices:  # the parent's loss is 0 by definition
            self.asked[architecture] = max(count, self.asked.get(architecture, 0))
        return self.cached_evaluator(architecture, count if count < self.items else None)


def report(files: list[Path]) -> None:
    """Markdown: a table a model, with the evaluations that each space took."""
    for file in files:
        document = json.loads(file.read_text())
        runs = document["runs"]
        budgets = list(next(iter(runs.values()))["cells"])
        print(f"\n{document['model']} ({document['processor']})\n")
        print("| test loss | " + " | ".join(f"{share}x" for share in budgets) + " | evaluations |")
        print("|---" * (len(budgets) + 2) + "|")
        for key, found in runs.items():
            losses = (f"{found['cells'][share]['test']:.4f}" if share in found["cells"] else "-" for share in budgets)
            print(f"| {key} | " + " | ".join(losses) + f" | {found['cost'].get('evaluations', '-')} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=("run", "report"))
    parser.add_argument("files", nargs="*", type=Path, help="of report")
    parser.add_argument("--model", default="python-lm")
    parser.add_argument("--data", type=Path, help="data of a model that is no reference model")
    parser.add_argument("--target", default="jetson-orin")
    parser.add_argument("--items", type=int, help="of the validation split; default: all")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of all validation losses")
    parser.add_argument("--budgets", default="0.9,0.8,0.7,0.6,0.5,0.4", help="shares of the parent's latency")
    parser.add_argument("--windows", type=int, help="of calibration text that finalists are fitted to; default: all")
    parser.add_argument("--spaces", help=f"some of {'; '.join((*SPACES, UNIFORM, *WIDTH_METHODS))}")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.verb == "report":
        report(options.files)
    elif options.out is None:
        sys.exit("--out is missing; give the file to write")
    else:
        run(options)


if __name__ == "__main__":
    main()
