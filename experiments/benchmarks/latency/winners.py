"""Certified winners measured once more in new processes: how many are above their budget.

Winner and parent are measured side by side, and their median ratio in the same rounds is compared with the fraction
that was asked for: what the machine does to both counts for neither.
"""

import json
from pathlib import Path
from typing import Any

from latency.accuracy import format_markdown
from latency_models.run_plan import measure_files
from nas.export.onnx_export import make_workload_inputs
from nas.export.parent_export import ParentExport
from nas.parent.parent import load_parent_model
from nas.pipeline.run import run as search
from nas.progress import Silent
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from nas.results.certificate import Certificate
from search_spaces.errors import NoFeasibleCandidate

MODELS = ("python-lm", "minilm", "digits-vit")
BUDGETS = ("0.9x", "0.8x", "0.7x", "0.6x", "0.5x")
SECONDS = 8.0
CONFIDENCE = 0.95


def run(folder: Path, seeds: int, models: set[str]) -> dict[str, Any]:
    """Search and certify, then measure all winners again; what is in the folder already is not searched again."""
    wanted = [(m, b, s) for s in range(seeds) for m in MODELS for b in BUDGETS if m in models]
    rows = []
    for model, budget, seed in wanted:
        out = folder / f"{model}-{budget}-{seed}"
        row = {"model": model, "budget": budget, "seed": seed, **certify_winner(model, budget, seed, out)}
        print(json.dumps(row), flush=True)
        rows.append(row)
    for row in rows:
        if row["certified"]:
            row |= measure_again(row["model"], folder / f"{row['model']}-{row['budget']}-{row['seed']}")
            print(json.dumps(row), flush=True)
    return {"winners": rows}


def certify_winner(model: str, budget: str, seed: int, out: Path) -> dict[str, Any]:
    """Search on this machine unless that was done; whether it ended with a certificate, and the test loss."""
    if not (out / "result.json").exists():
        try:
            search(SearchRequest("host", Budget.parse(budget), out, model=model, seed=seed), Silent())
        except NoFeasibleCandidate as error:
            return {"certified": False, "reason": str(error)}
    document = json.loads((out / "result.json").read_text())
    return {"certified": document["winner"]["certified"], "loss": document["winner"]["quality"]["value"]}


def measure_again(model: str, out: Path) -> dict[str, float]:
    """The certified bound and a new measurement, both over the budget."""
    certificate = Certificate.load(out / "winner" / "certificate.json")
    assert certificate.parent is not None
    assert certificate.bound_ms is not None
    parent = load_parent_model(model, None)
    files = {"parent": ParentExport(parent, Silent(), certificate.workload.phase).path,
             "winner": out / "winner" / "model.onnx"}  # fmt: skip
    measured = measure_files(
        files, make_workload_inputs(parent.model, certificate.workload), certificate.workload,
        sentinel="parent", seconds=SECONDS, min_rounds=100,
    )  # fmt: skip
    p, sentinel = certificate.percentile, measured.of["parent"]
    p_parent = certificate.parent.compute_percentile(p)
    now = (
        measured.of["winner"].compute_percentile(p) / sentinel.compute_percentile(p) * p_parent / certificate.budget_ms
    )
    if certificate.fraction is not None:  # what was promised is the median ratio in the same rounds
        now = measured.of["winner"].compute_ratio() / certificate.fraction
    return {
        "bound": certificate.bound_ms / certificate.budget_ms,
        "again": now,
        "machine": sentinel.compute_percentile(p) / p_parent,
    }


def bound_violations(count: int) -> float:
    """The share of violations that none in `count` leaves possible at 95 %: exact binomial."""
    return float(1 - (1 - CONFIDENCE) ** (1 / max(1, count)))


def format_table(document: dict[str, Any]) -> str:
    """Every winner, then the count."""
    rows = [
        (f"{row['model']}, {row['budget']}, seed {row['seed']}", f"{row['bound']:.3f}", f"{row['again']:.3f}",
         f"{row['machine']:.2f} x")
        for row in document["winners"] if row["certified"]
    ]  # fmt: skip
    above = sum(row["again"] > 1 for row in document["winners"] if row["certified"])
    none = [row for row in document["winners"] if not row["certified"]]
    summary = f"{above} of {len(rows)} above the budget, {len(none)} searches without a certificate."
    if not above:
        summary += f" None of {len(rows)} leaves at most {100 * bound_violations(len(rows)):.1f} % possible (95 %)."
    header = ("winner", "certified bound / budget", "measured again / budget", "parent's p90 again / then")
    return format_markdown(header, rows) + "\n\n" + summary


def draw_figure(document: dict[str, Any], path: Path) -> None:
    """The certified bound and the new measurement of each winner, over its budget."""
    from latency.drawing import draw_bars

    rows = [row for row in document["winners"] if row["certified"]]
    series = {"certified bound": [row["bound"] for row in rows], "measured again": [row["again"] for row in rows]}
    names = [str(number) for number in range(1, len(rows) + 1)]
    draw_bars(names, series, "p90 over the budget", "Certified winners, measured again in new processes", path)
