"""The end of a sweep on the screen: every cell, then which model is right for each device."""

from rich.table import Table

from nas.cli.console import emit_table, emit_text
from nas.sweep.cell import shorten_model_name
from nas.sweep.result import FIGURE, FILE, SweepResult
from nas.sweep.row import Model, Row


def print_sweep(result: SweepResult) -> None:
    """The table, what is right for each device, why cells have no winner, and the files."""
    emit_table(_build_table(result))
    emit_text("\n".join(_describe_right_sizing(result)))
    emit_table(_build_reasons(result)) if any(row.outcome.reason for row in result.rows) else None
    emit_text("\n".join(_list_files(result)))


def _build_table(result: SweepResult) -> Table:
    seconds = sum(row.outcome.seconds for row in result.rows)
    table = Table(
        title=f"{len(result.rows)} searches in {seconds:.0f} s of work", title_justify="left",
        caption="* ran first, as the pilot of its model; ~ predicted, else measured; quality on the test split",
        caption_justify="left",
    )  # fmt: skip
    seeds = len({row.cell.seed for row in result.rows}) > 1
    for name in ("model", "target", "budget", *(["seed"] if seeds else [])):
        table.add_column(name)
    for name in ("budget ms", "parent ms", "winner ms", "quality", "parent's", "params", "evaluated", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("end")
    for row in result.rows:
        cell = row.cell
        named = [shorten_model_name(cell.model) + (" *" if row.pilot else ""), cell.target, cell.budget]
        table.add_row(
            *named, *([str(cell.seed)] if seeds else []), *_describe_found(row), style="" if row.winner else "dim"
        )
    return table


def _describe_found(row: Row) -> list[str]:
    seconds, state = f"{row.outcome.seconds:.1f}", row.outcome.state
    budget = "" if row.budget_ms is None else f"{row.budget_ms:.2f}"
    if row.winner is None or row.parent is None:
        closest = row.outcome.closest_ms
        nearest = "" if closest is None else f"closest {closest:.2f}"
        return [budget, "", nearest, "", "", "", "", seconds, state]
    score = row.winner.score
    return [
        budget,
        _format_ms(row.parent),
        _format_ms(row.winner),
        f"{score.metric} {score.value:.4f} {'↑' if score.higher_is_better else '↓'}",
        f"{row.parent.score.value:.4f}",
        f"{100 * row.winner.parameters / row.parent.parameters:.0f} %",
        str(row.evaluations),
        seconds,
        "certified" if row.certified else state,
    ]


def _format_ms(model: Model) -> str:
    return f"{'~' if model.measured_ms is None else ''}{model.ms:.2f}"


def _describe_right_sizing(result: SweepResult) -> list[str]:
    lines = ["", "Right-sizing: the best model within each latency, unpruned models included"]
    for answer in result.answers:
        lines.append(f"  {answer.target} within {answer.budget_ms:.3g} ms")
        lines += [f"    {words}" for words in answer.words]
        if len(answer.choices) > 1:
            lines.append("    not comparable with each other: another metric, other data or another workload")
    return lines


def _build_reasons(result: SweepResult) -> Table:
    table = Table(title="Without a winner", title_justify="left", show_header=False)
    for row in result.rows:
        if row.outcome.reason:
            table.add_row(row.cell.title, row.outcome.state, row.outcome.reason)
    return table


def _list_files(result: SweepResult) -> list[str]:
    out, logged = result.sweep.out, result.mlflow or {}
    lines = ["", f"result      {out / FILE}"]
    if any(row.winner for row in result.rows):
        lines.append(f"figure      {out / FIGURE}")
    if logged:
        lines.append(f"compare     mlflow ui --backend-store-uri {logged['tracking_uri']}")
    if "problem" in logged:
        lines.append(logged["problem"])
    return lines
