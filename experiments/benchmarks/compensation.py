"""What adjusting the rest of a model is worth: as dropped, adjusted afterwards, and searched on the adjusted loss.

    python experiments/benchmarks/compensation.py run --model python-lm --items 24 --precision bf16 --out python-lm.json
    python experiments/benchmarks/compensation.py against python-lm-searches.json --items 24 --out python-lm.json
    python experiments/benchmarks/search_report.py python-lm.json
    python experiments/benchmarks/compensation.py tokens --words "attn+mlp removed attn ..." --out tokens.json
    python experiments/benchmarks/compensation.py report python-lm.json [...] [--figure out.png]

`run` searches all budgets twice, on the loss as dropped and on the loss after adjustment, with the same seeds, trials
and latency model (the data sheet of `--target`, so that a run can be repeated anywhere). The winners of the first
search are then adjusted as well. Everything is judged on the test split, and adjusted on the calibration split only.
`against` takes what `search_quality.py` recorded of the published methods, adjusts what each of them found, and
searches the adjusted loss for the latencies that they reached; `search_report.py` compares, as without adjustment.
`tokens` adjusts one architecture with growing parts of the calibration split, by each closed form.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from search_quality import BUDGETS, Bench, find_best_within, prepare, run_at_reached, run_ours, search_budgets

from nas.parent.parent import load_parent_model
from nas.pipeline.compensation import pick_items, plan_compensation
from nas.pipeline.evaluator import build_evaluator
from nas.pipeline.problem import MAX_TIED
from nas.quality import Quality, choose_evaluator
from nas.quality.precision import choose_precision
from nas.request.choices import AUTO, OFF
from nas.search import Candidate
from pruning.compensation.candidate_builder import CandidateBuilder, CompensationPlan, get_compensation
from search_spaces.architecture import Architecture

GROWING = (2048, 8192, 32768, 131072)  # calibration tokens
COLUMNS = 4  # panels of a figure side by side
ROWS = ("as dropped", "adjusted afterwards", "searched adjusted")


def run(options: argparse.Namespace) -> None:
    """Both searches at every seed; written after each, so that a run can be continued."""
    bench = prepare(options.model, options.target, options.items, options.data, options.precision)
    adjusted, bench = add_compensation(bench, options.items, options.precision), judge_final_at_last(bench)
    out: Path = options.out
    document = json.loads(out.read_text()) if out.exists() else {"model": Path(bench.parent.id).name, "runs": {}}
    document["processor"] = describe_processor()
    for seed in map(int, options.seeds.split(",")):
        if str(seed) not in document["runs"]:
            document["runs"][str(seed)] = compare(bench, adjusted, seed)
            out.write_text(json.dumps(document) + "\n")


def compare_with_published(options: argparse.Namespace) -> None:
    """Published methods with the same refit, and ours; written after each run, so that it can be continued."""
    recorded = json.loads(options.files[0].read_text())
    bench = prepare(options.model, options.target, options.items, options.data, options.precision)
    adjusted, out, seeds = add_compensation(bench, options.items, options.precision), options.out, options.seeds
    fresh = {**recorded, "runs": {}, "processor": describe_processor()}
    document = json.loads(out.read_text()) if out.exists() else fresh
    published = {key: done for key, done in recorded["runs"].items() if not key.startswith("nas/")}
    for key, done in published.items():
        if key not in document["runs"]:
            cells = {name: refit_cell(adjusted, cell) for name, cell in done["cells"].items()}
            document["runs"][key] = {**done, "cells": cells}
            out.write_text(json.dumps(document) + "\n")
            print(f"{document['model']} {key}: refitted", flush=True)
    for seed in map(int, seeds.split(",") if seeds else ()):
        if f"nas/{seed}" not in document["runs"]:
            document["runs"][f"nas/{seed}"] = run_ours(adjusted, seed)
            out.write_text(json.dumps(document) + "\n")
    if seeds:
        document["reached"] = run_at_reached(adjusted, document["runs"], int(seeds.split(",")[0]), options.digits)
        out.write_text(json.dumps(document) + "\n")


def refit_cell(adjusted: Bench, cell: dict[str, Any]) -> dict[str, Any]:
    """What a method found, judged on the test split after adjustment."""
    quality = adjusted.evaluate_held_out(Architecture.from_words(cell["words"]))
    losses = [round(value, 7) for value in quality.per_item]
    return {**cell, "test": quality.loss, "per_item": losses, "as_published": cell["test"]}


def compare(bench: Bench, adjusted: Bench, seed: int) -> dict[str, Any]:
    """Test losses by budget and row, and what both searches cost."""
    (plain, plain_cost), (pool, adjusted_cost) = search_budgets(bench, seed), search_budgets(adjusted, seed)
    parent_ms = bench.base.predict_ms(bench.base.space.parent)
    cells: dict[str, dict[str, Any]] = {}
    for share in BUDGETS:
        first, second = find_best_within(plain, share * parent_ms), find_best_within(pool, share * parent_ms)
        judged = ((bench, first), (adjusted, first), (adjusted, second))
        cells[str(share)] = {row: describe(*each) for row, each in zip(ROWS, judged, strict=True)}
        losses = ", ".join(f"{row} {cells[str(share)][row]['test']:.4f}" for row in ROWS)
        print(f"seed {seed} {share}: {losses}", flush=True)
    return {"cells": cells, "costs": {OFF: plain_cost, AUTO: adjusted_cost}}


def describe(bench: Bench, candidate: Candidate) -> dict[str, Any]:
    """A winner, judged on the test split."""
    quality = bench.evaluate_held_out(candidate.architecture)
    words, ms = candidate.architecture.words, candidate.predicted_ms
    return {"words": words, "ms": ms, "test": quality.loss, **quality.others}


def add_compensation(bench: Bench, items: int | None, precision: str) -> Bench:
    """The same, for candidates that are adjusted."""
    plan = plan_compensation(bench.parent, bench.evaluator, AUTO, choose_precision(precision, bench.parent.device))
    cached_evaluator = build_evaluator(
        bench.parent, bench.evaluator, precision=precision, items=items, compensation=plan
    )
    base = replace(bench.base, removes_blocks=True, max_tied=MAX_TIED)  # as `build_problem` has it
    return judge_final_at_last(replace(bench, base=base, cached_evaluator=cached_evaluator, tested={}))


def judge_final_at_last(bench: Bench) -> Bench:
    """The same, whose evaluations on all items are of candidates as they are delivered, as in a search."""
    return replace(bench, cached_evaluator=_FinalAtLast(bench.cached_evaluator, bench.items))


@dataclass(frozen=True)
class _FinalAtLast:
    cached_evaluator: Any
    items: int

    def __call__(self, architecture: Architecture, items: int | None = None) -> Quality:
        return self.cached_evaluator(architecture, None if items is None or items >= self.items else items)

    def evaluate_in_full(self, architecture: Architecture, split: str) -> Quality:
        return self.cached_evaluator.evaluate_in_full(architecture, split)


def compare_token_counts(options: argparse.Namespace) -> None:
    """Test and calibration loss by closed form and number of calibration tokens, and the penalties that were chosen."""
    parent = load_parent_model(options.model, options.data)
    evaluator, anatomy = choose_evaluator(parent.model, parent.dataset), parent.anatomy
    architecture = Architecture.from_words(options.words)
    split = parent.load_more_calibration(GROWING[-1] // 256)
    length, rows = split.inputs["input_ids"].shape[1], []
    for count, method in ((count, method) for count in GROWING for method in ("refit", "merge")):
        inputs = pick_items(split, count // length)
        began = time.process_time()
        model = CandidateBuilder(parent.model, anatomy, CompensationPlan(method, inputs, inputs)).build(architecture)
        seconds, record = time.process_time() - began, get_compensation(model)
        assert record is not None
        quality = evaluator.evaluate(model, "test")
        row = {"method": method, "tokens": record.tokens, "test": quality.loss, **quality.others,
               "calibration": evaluator.evaluate(model, "calibration").loss, "cpu_seconds": round(seconds, 1),
               "penalty": statistics.median(each.penalty for each in record.projections)}  # fmt: skip
        print(row, flush=True)
        rows.append(row)
    plain = CandidateBuilder(parent.model, anatomy).build(architecture)
    dropped = {split: evaluator.evaluate(plain, split).loss for split in ("test", "calibration")}
    document = {
        "model": parent.id,
        "words": options.words,
        "dropped": dropped,
        "rows": rows,
        "processor": describe_processor(),
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")


def report(files: list[Path]) -> None:
    """Markdown: a table a model, medians over the seeds."""
    for file in files:
        document = json.loads(file.read_text())
        runs = list(document["runs"].values())
        print(f"\n{document['model']} ({document['processor']}; {len(runs)} seeds)\n")
        print(
            "| test loss | " + " | ".join(f"{share}x" for share in BUDGETS) + " |\n|---" + "|---" * len(BUDGETS) + "|"
        )
        for row in ROWS:
            values = (statistics.median(run["cells"][str(share)][row]["test"] for run in runs) for share in BUDGETS)
            print(f"| {row} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
        seconds = [[run["costs"][name]["seconds"] for run in runs] for name in (OFF, AUTO)]
        print(f"\nSeconds: {statistics.median(seconds[0])} as dropped, {statistics.median(seconds[1])} adjusted.")


def draw(files: list[Path], out: Path) -> None:
    """Test loss over latency, a panel a model, medians over the seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    columns, rows = min(COLUMNS, len(files)), -(-len(files) // COLUMNS)
    size = (4.2 * columns, 3.8 * rows)
    picture, panels = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axes in panels.flat[len(files) :]:
        axes.remove()
    for axes, file in zip(panels.flat, files, strict=False):
        document = json.loads(file.read_text())
        for row in ROWS:
            cells = [[run["cells"][str(share)][row] for run in document["runs"].values()] for share in BUDGETS]
            losses = [statistics.median(cell["test"] for cell in some) for some in cells]
            axes.plot(BUDGETS, losses, marker="o", label=row)
        axes.set(title=document["model"], xlabel="latency, fraction of the parent's", yscale="log")
        axes.grid(alpha=0.25)
    for first in panels[:, 0]:
        first.set_ylabel("test loss (lower is better)")
    panels[0][0].legend(frameon=False)
    picture.savefig(out, dpi=110)


def describe_processor() -> str:
    """What of the processor matters to speed."""
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n", 1)[0].split()
    names = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if name in flags]
    return f"{torch.get_num_threads()} cores, {' '.join(names)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=("run", "against", "tokens", "report"))
    parser.add_argument("files", nargs="*", type=Path, help="of report; of against, what was recorded")
    parser.add_argument("--model", default="python-lm")
    parser.add_argument("--data", type=Path, help="data of a model that is no reference model")
    parser.add_argument("--target", default="jetson-orin")
    parser.add_argument("--items", type=int, help="of the validation split; default: all")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of all validation losses")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--digits", type=int, default=2, help="of against: of the share of latency that is a level")
    parser.add_argument("--words", help="of tokens: the architecture, a word a block")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path, help="of report")
    options = parser.parse_args()
    if options.verb == "report":
        report(options.files)
        if options.figure is not None:
            draw(options.files, options.figure)
    elif options.out is None:
        sys.exit("--out is missing; give the file to write")
    else:
        {"run": run, "against": compare_with_published, "tokens": compare_token_counts}[options.verb](options)


if __name__ == "__main__":
    main()
