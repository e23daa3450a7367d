"""The picture of a sweep: quality over milliseconds, a column for each target, a row for each metric."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.figures.search import import_pyplot
from nas.sweep.cell import shorten_model_name
from nas.sweep.row import Model, Row

# Okabe and Ito's palette, told apart by colour-blind readers; the marks differ too.
_STYLES = (
    ("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "^"), ("#D55E00", "D"), ("#CC79A7", "v"), ("#56B4E9", "P"),
    ("#000000", "X"),
)  # fmt: skip
_WIDTH, _HEIGHT = 4.6, 3.4  # inches of one plot


def sweep_figure(rows: Sequence[Row], path: Path) -> Path:
    """Draw the whole models (hollow) and the winners (filled), a line through those of one model.

    Metrics that compare a model with its own parent get a row for each model: on one axis they would be compared.

    Args:
        rows: one with a winner at least.
    """
    won = [row for row in rows if row.winner is not None]
    targets, groups = list(dict.fromkeys(row.target for row in won)), list(dict.fromkeys(map(_get_group, won)))
    styles = dict(zip(dict.fromkeys(row.cell.model for row in won), _STYLES * len(won), strict=False))
    plt = import_pyplot()
    figure, grid = plt.subplots(
        len(groups), len(targets), figsize=(_WIDTH * len(targets) + 0.6, _HEIGHT * len(groups) + 0.8),
        squeeze=False, sharey="row", layout="constrained",
    )  # fmt: skip
    for group, line in zip(groups, grid, strict=True):
        for target, axes in zip(targets, line, strict=True):
            here = [row for row in won if row.target == target and _get_group(row) == group]
            _plot(axes, here, styles)
            if group == groups[0]:
                axes.set_title(target, fontsize=10)
        line[0].set_ylabel(_label(next(row for row in won if _get_group(row) == group)))
    figure.suptitle("Winners of every budget; hollow: the whole model", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _get_group(row: Row) -> tuple[str, str, str, str]:
    """What may share an axis."""
    assert row.winner is not None
    score = row.winner.score
    across = score.absolute and bool(row.data)
    return score.metric, row.data, row.workload, "" if across else row.cell.model


def _label(row: Row) -> str:
    assert row.winner is not None
    score = row.winner.score
    better = "higher" if score.higher_is_better else "lower"
    of = "" if score.absolute else f" to {shorten_model_name(row.cell.model)}"
    return f"{score.metric.replace('_', ' ')}{of}, test split\n({better} is better)"


def _plot(axes: Any, rows: Sequence[Row], styles: dict[str, tuple[str, str]]) -> None:
    """One target and metric."""
    if not rows:
        axes.text(0.5, 0.5, "no winner", transform=axes.transAxes, ha="center", color="#8A8A8A")
    for model in dict.fromkeys(row.cell.model for row in rows):
        _draw_line(axes, [row for row in rows if row.cell.model == model], *styles[model])
    measured = all(model.measured_ms is not None for row in rows for model in (row.parent, row.winner) if model)
    workload = ", ".join(dict.fromkeys(row.workload for row in rows))
    axes.set_xlabel(f"{'measured' if measured else 'predicted'} ms, {workload}", fontsize=9)
    axes.margins(x=0.16, y=0.16)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if rows:
        axes.legend(frameon=False, fontsize=8, loc="best")


def _draw_line(axes: Any, rows: Sequence[Row], colour: str, marker: str) -> None:
    """One model on one target: from the tightest budget to the whole."""
    winners = [(row.winner, row.cell.budget) for row in rows if row.winner is not None]
    whole = next(row.parent for row in rows if row.parent is not None)
    points = sorted([*winners, (whole, "")], key=lambda point: (point[0].ms, point[0].score.value))
    axes.plot([_get_x(m) for m, _ in points], [_get_y(m) for m, _ in points], color=colour, linewidth=1.4, alpha=0.7)
    name = shorten_model_name(rows[0].cell.model)
    axes.plot(
        [_get_x(m) for m, _ in winners], [_get_y(m) for m, _ in winners], marker, color=colour, markersize=7, label=name
    )
    axes.plot(
        [_get_x(whole)],
        [_get_y(whole)],
        marker,
        color=colour,
        markersize=9,
        markerfacecolor="white",
        markeredgewidth=1.6,
    )
    for model, budget in winners:
        free = (6, -11) if model.score.higher_is_better else (7, 5)  # the side on which the line is not
        axes.annotate(
            budget, (_get_x(model), _get_y(model)), textcoords="offset points", xytext=free, fontsize=8, color=colour
        )


def _get_x(model: Model) -> float:
    return model.ms


def _get_y(model: Model) -> float:
    return model.score.value
