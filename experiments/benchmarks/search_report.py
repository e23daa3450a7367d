"""Tables and a figure of what `search_quality.py` recorded.

    python experiments/benchmarks/search_report.py minilm.json [...] [--optima minilm-optima.json] [--figure out.png]

A method is compared with our best candidate, by validation loss, at no more than the latency that the method reached:
paired t on the test items, Holm's correction over all cells of a model. Cells are budgets, as published and after
add-back, times our seeds.
"""

import argparse
import json
from pathlib import Path

from nas.quality import Quality
from nas.quality.comparison import Comparison, compare

BUDGETS = (0.9, 0.8, 0.7, 0.6, 0.5)
SIGNIFICANT = 0.05
COLUMNS = 3  # panels of the figure beside each other
SAME = 1.0001  # predicted latencies that differ by less


def read_quality(entry: dict) -> Quality:
    per_item = tuple(entry["per_item"])
    return Quality("loss", entry["test"], False, "test", entry["test"], {}, len(per_item), per_item)


def compare_runs(document: dict) -> list[tuple[str, str, int, Comparison]]:
    """(method, budget, our seed, our best at no more than the latency that method reached, against it).

    What has no seed, or was run with one only, meets each of ours.
    """
    runs, comparisons = document["runs"], []
    seeds = [key.split("/")[1] for key in runs if key.startswith("nas/")]
    pairs = [
        (name, done, other)
        for key, done in runs.items()
        for name, seed in [key.split("/")]
        for other in ([seed] if f"{name}/{seeds[-1]}" in runs else seeds)
        if name != "nas" and other in seeds
    ]
    for name, done, seed in pairs:
        pool = runs[f"nas/{seed}"]["pool"] + document["reached"]["pool"]
        for budget, entry in done["cells"].items():
            fitting = [c for c in pool if c["ms"] <= SAME * entry["ms"]]
            best = min(fitting, key=lambda c: c["validation"])
            comparisons.append((name, budget, int(seed), compare(read_quality(best), read_quality(entry), name)))
    return comparisons


def reject_by_holm(p_values: list[float]) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects at 5 %."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    rejected = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > SIGNIFICANT / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def write_report(paths: list[Path], optimum: Path | None) -> str:
    lines = []
    for path in paths:
        document = json.loads(path.read_text())
        lines += [*_format_cells(document), *_format_verdicts(document), *_format_costs(document)]
        if optimum is not None:
            truth = json.loads(optimum.read_text())
            lines += _compare_with_optima(document, truth) if truth["model"] == document["model"] else []
    return "\n".join(lines) + "\n"


def _format_cells(document: dict) -> list[str]:
    parent_ms = document["parent_ms"]
    lines = [
        f"### {document['model']}\n",
        f"Test loss within fractions of the parent's {parent_ms:.2f} ms ({document['target']}, {document['label']};",
        f"{document['items']} validation items), published methods after add-back; in brackets the fraction reached.\n",
        _format_row("method", [f"{budget}x" for budget in BUDGETS]),
        _format_row("---", ["---"] * len(BUDGETS)),
    ]
    for key, done in document["runs"].items():
        suffix = "" if key.startswith("nas/") else "+add-back"
        entries = [done["cells"].get(f"{budget}{suffix}") for budget in BUDGETS]
        lines.append(
            _format_row(key, ["-" if e is None else f"{e['test']:.4f} ({e['ms'] / parent_ms:.3f})" for e in entries])
        )
    return [*lines, ""]


def _format_row(first: str, others: list[str]) -> str:
    return f"| {first} | " + " | ".join(others) + " |"


def _format_verdicts(document: dict) -> list[str]:
    comparisons = compare_runs(document)
    certain = reject_by_holm([comparison.p_value for *_, comparison in comparisons])
    lines = ["| compared with | cells | ours better | tie | ours worse |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(name for name, *_ in comparisons):
        mine = [(c, sure) for (n, _, _, c), sure in zip(comparisons, certain, strict=True) if n == name]
        better = sum(sure and c.difference < 0 for c, sure in mine)
        worse = sum(sure and c.difference > 0 for c, sure in mine)
        lines.append(f"| {name} | {len(mine)} | {better} | {len(mine) - better - worse} | {worse} |")
    return [*lines, ""]


def _format_costs(document: dict) -> list[str]:
    lines = ["| run | evaluations | in full evaluations | seconds |", "|---|---|---|---|"]
    lines += [
        f"| {key} | {done['evaluations']} | {done['full_evaluations']} | {done['seconds']} |"
        for key, done in document["runs"].items()
    ]
    return [*lines, ""]


def _compare_with_optima(document: dict, truth: dict) -> list[str]:
    """Validation losses beside the least that any pattern has."""
    ours = {key: done["cells"] for key, done in document["runs"].items() if key.startswith("nas/")}
    lines = [_format_row("budget", ["optimum", *ours]), _format_row("---", ["---"] * (1 + len(ours)))]
    for budget in map(str, BUDGETS):
        best = truth["best"][budget]["loss"]
        losses = [cells[budget]["validation"] for cells in ours.values()]
        lines.append(
            _format_row(budget, [f"{best:.5f}", *(f"{value:.5f} ({value / best - 1:+.1%})" for value in losses)])
        )
    return [*lines, ""]


def draw_figure(paths: list[Path], out: Path) -> None:
    """Test loss over latency: what each method reached after add-back, and our candidates at the budgets."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = -(-len(paths) // COLUMNS)
    picture, panels = plt.subplots(
        rows, min(COLUMNS, len(paths)), figsize=(13, 4.2 * rows), layout="constrained", squeeze=False
    )
    for axes in panels.flat[len(paths) :]:
        axes.axis("off")
    for axes, path in zip(panels.flat, paths, strict=False):
        axes.set_prop_cycle(color=mpl.colormaps["tab20"].colors)
        document = json.loads(path.read_text())
        for key, done in document["runs"].items():
            name, seed = key.split("/")
            if seed != "0":
                continue
            suffix = "" if name == "nas" else "+add-back"
            entries = [done["cells"].get(f"{budget}{suffix}") for budget in BUDGETS]
            points = [(e["ms"] / document["parent_ms"], e["test"]) for e in entries if e is not None]
            bold = (
                {"linewidth": 2.5, "color": "black", "zorder": 5} if name == "nas" else {"linewidth": 1, "alpha": 0.8}
            )
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name, **bold)
        axes.set_yscale("log")
        axes.set_xlabel("latency, fraction of the parent's")
        axes.set_ylabel("test loss (lower is better)")
        axes.set_title(document["model"])
        axes.grid(alpha=0.25)
    handles, names = panels[0][0].get_legend_handles_labels()
    picture.legend(handles, names, loc="outside right center", frameon=False)
    picture.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--optima", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    print(write_report(arguments.paths, arguments.optima), end="")
    if arguments.figure is not None:
        draw_figure(arguments.paths, arguments.figure)


if __name__ == "__main__":
    main()
