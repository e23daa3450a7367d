"""Pictures that a person understands at a glance."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.analysis.redundancy import Redundancy
from search_spaces.kinds import Kind

# Okabe and Ito's palette: told apart by colour-blind readers.
BLUE, ORANGE, GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8A8A"
_KINDS = {
    Kind.ATTENTION: (BLUE, "o"),
    Kind.CROSS_ATTENTION: (GREEN, "D"),
    Kind.MLP: (ORANGE, "s"),
    Kind.BLOCK: (_GREY, "^"),
}


_TICKS = 6
_MIN_CHANGE = 1e-5  # what is drawn for a part that changes nothing


@dataclass(frozen=True)
class Point:
    """One architecture in the quality-latency plane; `measured` on the target, or predicted for it.

    Example:
        >>> point = Point(ms=8.2, loss=0.03, label="winner", words="attn+mlp mlp", feasible=True)
    """

    ms: float
    loss: float
    label: str
    words: str
    feasible: bool
    measured: bool = False


def import_pyplot() -> Any:
    """The drawing library, set to files only; loaded when a picture is drawn."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def draw_redundancy(redundancy: Redundancy, path: Path, title: str) -> None:
    """Similarity of every attention, MLP and block by depth."""
    plt = import_pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    layers = range(redundancy.depth)
    for kind in redundancy.kinds:
        colour, marker = _KINDS[kind]
        changes = [max(1 - score, _MIN_CHANGE) for score in redundancy.get_scores(kind)]
        axes.plot(layers, changes, color=colour, marker=marker, linewidth=2, label=kind.value)
    axes.set_xlabel("depth (block)")
    axes.set_yscale("log")  # most parts change little: on a linear axis they would be one line
    axes.set_ylabel("change: 1 - cosine similarity of in and out")
    axes.set_xticks(list(layers))
    axes.set_title(f"{title}: how much each part changes the residual stream\n(lower = more redundant)", fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="best")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_pareto(
    points: Sequence[Point],
    named: dict[str, Point],
    budget_ms: float,
    path: Path,
    *,
    latency_label: str,
    loss_label: str,
    title: str,
) -> None:
    """Every candidate, the budget, and the named ones: parent, winner, baselines."""
    plt = import_pyplot()
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.axvspan(0, budget_ms, color=GREEN, alpha=0.07)
    axes.axvline(budget_ms, color=GREEN, linewidth=1.2)
    top = _choose_top(points, named)
    shown = [point for point in points if point.loss <= top]
    for marker, some in (("o", [p for p in shown if not p.measured]), ("s", [p for p in shown if p.measured])):
        axes.scatter([p.ms for p in some], [p.loss for p in some], s=22, color=_GREY, alpha=0.6, marker=marker)
    for name, point in named.items():
        winner = name == "winner"
        colour = _RED if winner else BLUE
        size, marker = (220, "*") if winner else (60, "D")
        axes.scatter([point.ms], [point.loss], s=size, color=colour, marker=marker, zorder=3)
        offset = (8, -14) if winner else (8, 6)
        axes.annotate(name, (point.ms, point.loss), textcoords="offset points", xytext=offset, color=colour)
    values = [p.ms for p in (*points, *named.values())]
    low, high = min([*values, budget_ms]), max([*values, budget_ms])
    axes.set_xlim(low - 0.22 * (high - low), high + 0.1 * (high - low))
    axes.set_ylim(-0.04 * top, 1.05 * top)
    hidden = len(points) - len(shown)
    axes.set_xlabel(latency_label + (f"; {hidden} worse candidates are above the plot" if hidden else ""))
    axes.set_ylabel(loss_label)
    axes.annotate(f"budget {budget_ms:.2f} ms", (budget_ms, 0.98), xycoords=("data", "axes fraction"),
                  textcoords="offset points", xytext=(-4, -4), ha="right", va="top", color=GREEN)  # fmt: skip
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_prediction(
    predicted: Sequence[float], measured: Sequence[float], path: Path, *, title: str, words: str
) -> None:
    """Measured against predicted, each point predicted from the others; the band is 10 % either way."""
    plt = import_pyplot()
    figure, axes = plt.subplots(figsize=(5.6, 5.2), layout="constrained")
    low, high = min(*predicted, *measured) * 0.9, max(*predicted, *measured) * 1.1
    axes.fill_between([low, high], [low * 0.9, high * 0.9], [low * 1.1, high * 1.1], color=GREEN, alpha=0.12)
    axes.plot([low, high], [low, high], color=GREEN, linewidth=1.2)
    axes.scatter(predicted, measured, s=28, color=BLUE, alpha=0.8, zorder=3)
    ticks = [low * (high / low) ** (step / _TICKS) for step in range(_TICKS + 1)]
    for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        scale("log")
        axis.set_ticks(ticks, [f"{tick:.3g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.set_xlabel("predicted from the other records, ms (p50)")
    axes.set_ylabel("measured, ms (p50)")
    axes.set_title(f"{title}\n{words}", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _choose_top(points: Sequence[Point], named: dict[str, Point]) -> float:
    """The highest loss that is drawn: a few hopeless candidates would squash the others."""
    losses = sorted(point.loss for point in points)
    usual = losses[(3 * len(losses)) // 4] if losses else 0.0
    return 1.15 * max([usual, *(point.loss for point in named.values())]) or 1.0


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
 body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; color: #222; }}
 svg {{ width: 100%; height: auto; background: #fafafa; border: 1px solid #ddd; }}
 table {{ border-collapse: collapse; width: 100%; font-size: 13px; }}
 td, th {{ text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #eee; }}
 td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; }}
 tr.winner {{ background: #fdeee2; font-weight: 600; }} .out {{ color: #999; }}
 circle:hover {{ stroke: #000; stroke-width: 2; }}
</style>
<h1>{title}</h1>
<p>{subtitle}</p>
<svg viewBox="0 0 900 440" role="img" aria-label="{title}">{svg}</svg>
<table><thead><tr><th>candidate</th><th class="n">{latency}</th><th class="n">{loss}</th><th>blocks</th></tr></thead>
<tbody>{rows}</tbody></table>
</html>
"""


def write_pareto_page(
    points: Sequence[Point], named: dict[str, Point], budget_ms: float, path: Path, *, latency_label: str,
    loss_label: str, title: str,
) -> None:  # fmt: skip
    """The same picture as a page that needs nothing else: hover over a point, read the table."""
    everything = [*points, *named.values()]
    low, high = min(p.ms for p in everything) * 0.95, max([*(p.ms for p in everything), budget_ms]) * 1.03
    worst = max(p.loss for p in everything) or 1.0

    def locate(point: Point) -> tuple[float, float]:
        return 60 + 820 * (point.ms - low) / (high - low), 400 - 370 * (point.loss / worst) ** 0.5

    edge = 60 + 820 * (budget_ms - low) / (high - low)
    parts = [f'<rect x="60" y="10" width="{edge - 60:.1f}" height="390" fill="{GREEN}" opacity=".08"/>',
             f'<text x="{edge - 6:.1f}" y="26" text-anchor="end" fill="{GREEN}">budget {budget_ms:.2f} ms</text>',
             '<path d="M60 10V400H880" fill="none" stroke="#888"/>',
             f'<text x="880" y="430" text-anchor="end">{html.escape(latency_label)}</text>',
             f'<text x="66" y="26">{html.escape(loss_label)}</text>']  # fmt: skip
    for point, name in [(p, "") for p in points] + [(p, n) for n, p in named.items()]:
        x, y = locate(point)
        colour = _RED if name == "winner" else BLUE if name else _GREY
        tip = html.escape(f"{name or point.label}: {point.ms:.3f} ms, {point.loss:.4f}\n{point.words}")
        radius = 8 if name == "winner" else 5
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"><title>{tip}</title></circle>')
        if name:
            parts.append(f'<text x="{x + 10:.1f}" y="{y - 8:.1f}" fill="{colour}">{html.escape(name)}</text>')
    rows = [_format_row(name, point, name == "winner") for name, point in named.items()]
    rows += [_format_row(p.label, p, False) for p in sorted(points, key=lambda p: (not p.feasible, p.loss))]
    subtitle = f"{len(points)} candidates; green meets the budget. Hover over a point for its blocks."
    path.write_text(
        _PAGE.format(
            title=html.escape(title),
            subtitle=html.escape(subtitle),
            svg="".join(parts),
            rows="".join(rows),
            latency=html.escape(latency_label),
            loss=html.escape(loss_label),
        )
    )


def _format_row(name: str, point: Point, winner: bool) -> str:
    style = "winner" if winner else "" if point.feasible else "out"
    return (
        f'<tr class="{style}"><td>{html.escape(name)}</td><td class="n">{point.ms:.3f}</td>'
        f'<td class="n">{point.loss:.4f}</td><td>{html.escape(point.words)}</td></tr>'
    )


def save_redundancy(redundancy: Redundancy, folder: Path, title: str) -> None:
    """`redundancy.json` and `redundancy.png` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "redundancy.json").write_text(json.dumps(redundancy.to_json(), indent=1) + "\n")
    draw_redundancy(redundancy, folder / "redundancy.png", title)
