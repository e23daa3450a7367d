"""The end of a search on the screen: what was found, against what, and where everything lies."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from latency_models.workload import Workload
from nas.cli.console import emit_table, emit_text
from nas.export.onnx_export import build_file_name
from nas.quality.comparison import Comparison
from nas.report import REPORT
from nas.results.finalists import describe_order, list_rung_steps, tabulate_finalists
from nas.results.glossary import AS_DROPPED, COMPENSATED, add_item_count, explain_percentile, explain_words, join_names
from nas.results.result import Entry, Result
from nas.search.unit_savings import list_ineffective_units

_CHEAPEST = 3  # units named
_MLFLOW_UI = "http://127.0.0.1:5000"  # where `mlflow ui` listens
_SHOWN = ("runner-up", "cosine-joint+add-back")


def print_summary(result: Result, out: Path) -> None:
    """Winner, parent and baselines side by side, then the verdict and the files."""
    p, winner = result.percentile, result.winner
    title = (
        f"{result.model['id']} on {result.target['name']} · {result.workload} · budget {result.budget_ms:.2f} ms (p{p})"
    )
    caption = f"p{p} latency {result.target['label']}; quality on the test split, which the search never saw"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    metric = winner.quality.metric
    table.add_column("")
    table.add_column(f"{metric} {'↑' if winner.quality.higher_is_better else '↓'}", justify="right")
    for name in winner.quality.others:
        table.add_column(name, justify="right")
    table.add_column(f"predicted p{p} ms", justify="right")
    table.add_column(f"measured p{p} ms", justify="right")
    for name, entry, style in _build_rows(result):
        table.add_row(name, *_format_cells(entry, list(winner.quality.others)), style=style)
    emit_table(table)
    if len(result.finalists) > 1:
        emit_table(_build_finalists(result))
    emit_text("\n".join([*_list_meanings(result), *_build_lines(result, out)]))


def _build_finalists(result: Result) -> Table:
    """The best candidates at every stage."""
    finalists = [each.to_json() for each in result.finalists]
    head, *rows = tabulate_finalists(finalists, list_rung_steps(result.healing))
    table = Table(title="finalists: loss on the validation split, and its rank", title_justify="left")
    for name in head:
        table.add_column(name, justify="right")
    for finalist, row in zip(result.finalists, rows, strict=True):
        table.add_row(*row, style="bold" if finalist.architecture == result.winner.architecture else "")
    return table


def _describe_healing(result: Result) -> list[str]:
    """What training and compensation did to the finalists."""
    steps, healing = list_rung_steps(result.healing), result.healing
    lines = [f"order       {said}" for said in describe_order([each.to_json() for each in result.finalists], steps)]
    if healing is not None:
        lines.append(
            f"healed      {healing['steps']} steps, {healing['tokens_seen']:,} tokens or images; "
            f"{healing['minutes']:.1f} minutes of training of {healing['finalists']} finalists"
        )
    return lines


def _describe_against(comparison: Comparison) -> str:
    interval = f"95 % interval {comparison.low:+.4f} to {comparison.high:+.4f}"
    return (
        f"compared    with {comparison.against}: the winner's loss differs by {comparison.difference:+.4f} "
        f"({interval}), {comparison.verdict}; on {comparison.items} test items"
    )


def _build_rows(result: Result) -> list[tuple[str, Entry, str]]:
    """Baselines that are the same architecture are one row with both names."""
    names = join_names([(entry.method, entry.architecture) for entry in result.baselines])
    every = result.winner.quality.items
    shown = [
        (add_item_count(names[e.method], e.quality.items, every), e) for e in result.baselines if e.method in names
    ]
    baselines = [(name, entry, "dim") for name, entry in shown]
    return [("parent", result.parent, ""), ("winner", result.winner, "bold"), *_list_before(result), *baselines]


def _list_before(result: Result) -> list[tuple[str, Entry, str]]:
    """The winner before it was trained, and before what is left of it was adjusted."""
    known = ((COMPENSATED, result.compensated), (AS_DROPPED, result.as_dropped))
    return [(name, replace(result.winner, quality=quality), "") for name, quality in known if quality is not None]


def _list_meanings(result: Result) -> list[str]:
    """A line for every word of the table and of the lines after it."""
    quality = result.winner.quality
    words = [quality.metric, *quality.others, *(entry.method for entry in result.baselines)]
    words += [name for name, _, _ in _list_before(result)]
    words += [comparison.against for comparison in result.comparisons if comparison.against in _SHOWN]
    meanings = {f"p{result.percentile}": explain_percentile(result.percentile), **explain_words(words)}
    return [f"{word:<22} {meaning}" for word, meaning in meanings.items()] + [""]


def _format_cells(entry: Entry, others: list[str]) -> list[str]:
    quality = entry.quality
    extra = [f"{quality.others[name]:.4f}" if name in quality.others else "" for name in others]
    measured = "" if entry.measured_ms is None else f"{entry.measured_ms:.2f}"
    return [f"{quality.value:.4f}", *extra, f"{entry.predicted_ms:.2f}", measured]


def _build_lines(result: Result, out: Path) -> list[str]:
    winner, host = result.winner, result.host
    lines = [
        f"blocks      {winner.architecture.words}",
        *([f"tokens      {result.tokens}"] if result.tokens else []),
        f"parameters  {result.winner_parameters / 1e6:.2f} M of {result.model['parameters'] / 1e6:.2f} M",
        f"verdict     {result.verdict}",
    ]
    lines += [_describe_against(comparison) for comparison in result.comparisons if comparison.against in _SHOWN]
    lines += _describe_healing(result)
    lines += _describe_worth(result)
    if host is not None:
        lines.append(
            f"here        ONNX Runtime on this machine: the winner's file p50 {host['winner_p50_ms']:.2f} ms, p90 "
            f"{host['winner_p90_ms']:.2f} ms; the parent's p50 {host['parent_p50_ms']:.2f} ms, p90 "
            f"{host['parent_p90_ms']:.2f} ms; ratio {host['ratio_to_parent']:.2f} (median, side by side)"
        )
    lines += [
        f"result      {out / 'result.json'}",
        f"report      {out / REPORT}",
        f"deploy      {_find_deployed(result, out)}",
        *_compare(result.mlflow),
    ]
    registered = result.mlflow.get("registered_model")
    if registered is not None:
        champion = ", its champion" if registered["champion"] else "; its champion is better"
        lines.append(f"registered  version {registered['version']} of {registered['name']}{champion}")
    return lines


def _compare(logged: dict[str, Any]) -> list[str]:
    """Where candidates are compared: the page of a server, or how to start one and which page to open.

    Nowhere, where nothing could be logged.
    """
    if logged.get("run_id") is None:
        return []
    uri, page = logged["tracking_uri"], logged.get("page", "")
    if uri.startswith(("http://", "https://")):
        return [f"compare     {uri.rstrip('/')}{page}"]
    lines = [f"compare     mlflow ui --backend-store-uri {uri}"]
    return [*lines, f"            then {_MLFLOW_UI}{page}"] if page else lines


def _find_deployed(result: Result, out: Path) -> Path:
    """The file that was measured: of a device, the one in its own form."""
    name = build_file_name(Workload.parse(result.workload).phase)
    return out / "winner" / (f"device-{name}" if result.certified and f"device-{name}" in result.files else name)


def _describe_worth(result: Result) -> list[str]:
    """Where the milliseconds of this target are cheap, and where there are none."""
    known = [(unit, ratio) for unit in result.units if unit.effective and (ratio := unit.ms_per_loss) is not None]
    best = sorted(known, key=lambda pair: -pair[1])[:_CHEAPEST]
    lines = []
    if best:
        savings = ", ".join(
            f"{unit.choice} saves {unit.saves_ms:.2f} ms at a loss of {unit.loss:.4f}" for unit, _ in best
        )
        lines.append(f"cheapest    {savings}")
    without = list_ineffective_units(result.units)
    if without:
        lines.append(f"no savings  {', '.join(without)}: dropping them does not make the model faster on this target")
    return lines
