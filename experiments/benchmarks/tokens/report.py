"""The table and the figure of the benchmark: quality against measured latency."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from latency.accuracy import format_markdown

OURS = ("nas tokens", "nas joint", "nas structure")
SLACK = 1e-9
COLOURS = {
    "nas tokens": "#E69F00", "nas joint": "#0072B2", "nas structure": "#009E73", "pyramiddrop": "#D55E00",
    "random-tokens": "#8A8A8A", "fastv": "#CC79A7", "tome": "#56B4E9", "visionzip": "#6A4C93",
    "equal-steps": "#B8A600", "dop": "#222222",
}  # fmt: skip
Point = tuple[float, float]  # share of the parent's measured latency, metric


def write_report(documents: Sequence[dict[str, Any]], figure: Path | None) -> str:
    """Every cell of every case."""
    if figure is not None:
        draw(documents, figure)
    return "\n\n".join(format_table(document) for document in documents)


def collect_curve(document: dict[str, Any], name: str) -> list[Point]:
    """What a method was measured and judged at, fastest first, the parent last."""
    cells = document["found"][name]["cells"].values()
    points = [read_point(document, cell) for cell in cells if read_digest(cell) in document["measured"]]
    return sorted([*points, (1.0, document["tested"]["parent"]["metric"])])


def read_point(document: dict[str, Any], cell: Mapping[str, Any]) -> Point:
    digest = read_digest(cell)
    return document["measured"][digest], document["tested"][digest]["metric"]


def read_digest(cell: Mapping[str, Any]) -> str:
    from search_spaces.architecture import Architecture

    return Architecture.from_json(dict(cell["architecture"])).digest


def interpolate(points: Sequence[Point], share: float) -> float | None:
    """The metric of a method at a latency, between its points; None where it does not get there."""
    shares, metrics = zip(*points, strict=True)
    if share < shares[0] - SLACK:
        return None
    # Never credited with less than a faster one of its own points: it could be used there.
    best = np.maximum.accumulate(metrics)
    return float(np.interp(share, shares, best))


def format_table(document: dict[str, Any]) -> str:
    """A row per budget and searched space, a column per other method at the latency that ours was measured at."""
    others = [name for name in document["found"] if name not in OURS]
    curves = {name: collect_curve(document, name) for name in [*others, *OURS] if name in document["found"]}
    rows = []
    for name in OURS:
        for budget, cell in document["found"].get(name, {"cells": {}})["cells"].items():
            share, own = read_point(document, cell)
            there = [format_value(interpolate(curves[other], share)) for other in others]
            rows.append((f"{name}, {budget}", f"{share:.3f}", f"**{own:.4f}**", *there))
    refused = [f" {words}: {reason}." for words, reason in document.get("refused", {}).items()]
    parent = document["tested"]["parent"]["metric"]
    head = f"**{document['case']}**, {document['workload']}: {document['metric']}; the parent has {parent:.4f}."
    header = ("searched, budget", "measured / parent", "ours", *(f"{other}, there" for other in others))
    return "\n\n".join([head + "".join(refused), format_markdown(header, rows)])


def format_value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def draw(documents: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel per case: metric over the measured share of the parent's latency."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows, columns = -(-len(documents) // 2), min(2, len(documents))
    figure, panels = plt.subplots(rows, columns, figsize=(5 * columns, 3.8 * rows), layout="constrained", squeeze=False)
    for axes in panels.flat[len(documents) :]:
        axes.set_visible(False)
    for axes, document in zip(panels.flat, documents, strict=False):
        for name in document["found"]:
            shares, metrics = zip(*collect_curve(document, name), strict=True)
            mine = name in OURS
            axes.plot(
                shares, metrics, "o-" if mine else ".--", color=COLOURS[name], linewidth=2 if mine else 1, label=name,
                markersize=4,
            )  # fmt: skip
        axes.set_title(f"{document['case']}: {document['metric']}", fontsize=9)
        axes.set_xlabel("measured latency / parent", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
