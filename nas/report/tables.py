"""The page's tables: rows of words."""

import json
from collections.abc import Sequence
from typing import Any

from latency_models.measurement import Measurement
from nas.report.drawing import Block, strip
from nas.report.words import (
    MISSING,
    format_energy,
    format_figure,
    format_ms,
    format_parameters,
    format_ratio,
    format_size,
    name_metric,
)
from nas.results.certificate import Certificate
from nas.results.glossary import RUNNER_UP, add_item_count, join_names
from search_spaces.architecture import Architecture
from search_spaces.errors import ArchitectureError
from search_spaces.kinds import PARTS
from search_spaces.level import DROP
from search_spaces.unit import Choice, is_structural

Row = tuple[str, ...]


def get_latency(entry: dict[str, Any]) -> float:
    """Milliseconds at the asked percentile: measured where there are any, else predicted."""
    ms = entry["predicted_ms"] if entry["measured_ms"] is None else entry["measured_ms"]
    return float(ms)


def build_parent_rows(result: dict[str, Any], certificate: Certificate | None) -> tuple[Row, ...]:
    """What is asked of a model, of the parent, of the winner, and how many times the parent's that is."""
    parent, winner = result["parent"], result["winner"]
    rows: list[Row] = [
        *_build_latency_rows(result, certificate),
        *_build_quality_rows(parent["quality"], winner["quality"]),
    ]
    before = (("compensated", "compensated, before it was trained"), ("as_dropped", "as dropped, nothing adjusted"))
    for key, words in before:
        quality = winner.get(key)  # results of earlier versions have none
        if quality is not None:
            rows.append((f"{name_metric(quality['metric'])} {words}", MISSING, format_figure(quality["value"]), ""))
    before, after = result["model"]["parameters"], winner["parameters"]
    rows.append(("parameters", format_parameters(before), format_parameters(after), format_ratio(after, before)))
    held = [None if (each := entry.get("memory_bytes")) is None else sum(each.values()) for entry in (parent, winner)]
    rows += _build_part_rows(result["model"].get("parts", {}), winner.get("parts", {}))
    rows.append(("memory, computed", format_size(held[0]), format_size(held[1]), format_ratio(held[1], held[0])))
    joules = [entry.get("joules") for entry in (parent, winner)]
    if joules[1] is not None:
        rows.append(
            (
                "energy of one inference",
                format_energy(joules[0]),
                format_energy(joules[1]),
                format_ratio(joules[1], joules[0]),
            )
        )
    return tuple(rows)


def _build_part_rows(before: dict[str, int], after: dict[str, int]) -> list[Row]:
    """How many parts of each nature there are, of models that have others than attentions and MLPs."""
    if set(before) <= set(PARTS):
        return []
    counts = ((name, count, after.get(name, 0)) for name, count in before.items())
    return [(f"parts, {name}", str(old), str(new), format_ratio(new, old)) for name, old, new in counts]


def _build_latency_rows(result: dict[str, Any], certificate: Certificate | None) -> list[Row]:
    parent, winner, p = result["parent"], result["winner"], result["percentile"]
    one, other = get_latency(winner), get_latency(parent)
    measured = winner["measured_ms"] is not None
    kind = "measured on the target" if measured else "predicted"
    rows: list[Row] = [(f"latency p{p}, {kind}", format_ms(other), format_ms(one), format_ratio(one, other))]
    if not measured:
        rows.append(("between", _describe_bounds(parent["interval_ms"]), _describe_bounds(winner["interval_ms"]), ""))
    if certificate is None or certificate.winner is None or certificate.parent is None:
        return rows
    suffix = "" if certificate.on_target else " of the exported files, not on the target"
    for name, part in (("p50", 50), ("p90", 90)):
        if not (measured and part == p):
            mine, theirs = certificate.winner.compute_percentile(part), certificate.parent.compute_percentile(part)
            rows.append(
                (f"{name}{suffix or ', measured'}", format_ms(theirs), format_ms(mine), format_ratio(mine, theirs))
            )
    spans = [_describe_bounds(each.compute_median_interval()) for each in (certificate.parent, certificate.winner)]
    rows.append((f"median between (90 %){suffix}", *spans, ""))
    if measured:
        rows.append((f"p{p} at most (99 %)", MISSING, format_ms(certificate.bound_ms), ""))
    return rows


def _describe_bounds(interval: Sequence[float]) -> str:
    low, high = interval
    return f"{format_ms(low).removesuffix(' ms')} – {format_ms(high)}"


def _build_quality_rows(parent: dict[str, Any], winner: dict[str, Any]) -> list[Row]:
    """The headline metric and the others, of the held-out items."""
    name, arrow = winner["metric"], "↑" if winner["higher_is_better"] else "↓"
    rows: list[Row] = [
        (f"{name_metric(name)} {arrow}", format_figure(parent["value"]), format_figure(winner["value"]), "")
    ]
    own = ("metric", "value", "higher_is_better", "split", "loss", "items")
    others = [key for key in winner if key not in own]
    return rows + [(name_metric(key), format_figure(parent.get(key)), format_figure(winner[key]), "") for key in others]


def build_certificate_rows(certificate: Certificate) -> tuple[Row, ...]:
    """What the certificate says, apart from its samples."""
    rows = [
        ("target", certificate.target),
        ("workload", str(certificate.workload)),
        ("verdict", f"{certificate.verdict}: {certificate.reason}"),
        ("budget", f"{format_ms(certificate.budget_ms)} at p{certificate.percentile}"),
        ("measured on the target", "yes" if certificate.on_target else "no"),
    ]
    for name, measured in (("winner", certificate.winner), ("parent", certificate.parent)):
        if measured is not None:
            rows.append((f"samples of the {name}", _describe_samples(measured)))
    if certificate.drift > 1:
        rows.append(("drift since the target was profiled", f"{certificate.drift:.3f} ×"))
    if certificate.parent_change is not None:
        rows.append(("parent, second half over first", f"{100 * certificate.parent_change:+.1f} %"))
    rows += [(key.replace("_", " "), value) for key, value in certificate.environment.items()]
    return (*rows, ("sha256 of the file", certificate.file_sha256))


def _describe_samples(measured: Measurement) -> str:
    processes = f" in {len(measured.sessions)} processes" if len(measured.sessions) > 1 else ""
    return f"{len(measured.samples_ms)}{processes}, p50 {format_ms(measured.p50)}, p90 {format_ms(measured.p90)}"


def build_comparison_rows(comparisons: Sequence[dict[str, Any]], names: dict[str, str]) -> tuple[Row, ...]:
    """The paired tests: against whom, the difference in loss, its interval, the p value, the verdict.

    Args:
        names: of the baselines that are shown, each with those that equal it (`join_baseline_names`).
    """
    return tuple(
        (
            names.get(each["against"], each["against"]), f"{each['difference']:+.4f}",
            _format_interval(each["interval"]),
            f"{each['p_value']:.2g}",
            str(each["items"]), each["verdict"],
        )
        for each in comparisons
        if each["against"] in names or each["against"] == RUNNER_UP
    )  # fmt: skip


def join_baseline_names(result: dict[str, Any]) -> dict[str, str]:
    """The baselines by name, those of one architecture together under the first of them."""
    return join_names([(entry["method"], json.dumps(entry["architecture"])) for entry in result["baselines"]])


def _format_interval(bounds: Sequence[float | None]) -> str:
    low, high = (MISSING if bound is None else f"{bound:+.4f}" for bound in bounds)
    return f"{low}\N{NO-BREAK SPACE}…\N{NO-BREAK SPACE}{high}"


def build_entry_rows(result: dict[str, Any]) -> tuple[tuple[str, str, str, str, tuple[Block, ...]], ...]:
    """Parent, winner and baselines: quality on held-out items, predicted and measured latency, what is left."""
    named = [("parent", result["parent"]), ("winner", result["winner"])]
    names = join_baseline_names(result)
    named += [(names[entry["method"]], entry) for entry in result["baselines"] if entry["method"] in names]
    every = result["winner"]["quality"]["items"]
    return tuple(
        (
            add_item_count(name, entry["quality"]["items"], every),
            format_figure(entry["quality"]["value"]),
            format_ms(entry["predicted_ms"]),
            format_ms(entry["measured_ms"]),
            strip(Architecture.from_json(entry["architecture"])),
        )
        for name, entry in named
    )


def build_unit_rows(units: Sequence[dict[str, Any]], winner: Architecture) -> tuple[Row, ...]:
    """What dropping each unit alone saves and costs; the best bargain first; whether the winner dropped it."""
    ranked = sorted(units, key=lambda unit: -(unit["ms_per_loss"] or 0.0))
    rows = []
    for unit in ranked:
        bargain = MISSING if unit["ms_per_loss"] is None else f"{unit['ms_per_loss']:.3g}"
        fate = _describe_fate(unit["unit"], winner) if unit["buys_time"] else "saves no time"
        rows.append((unit["unit"], format_ms(unit["saves_ms"]), format_figure(unit["loss"]), bargain, fate))
    return tuple(rows)


def _describe_fate(name: str, winner: Architecture) -> str:
    """What the winner made of a choice; nothing is said of steps of token reduction, or of what another nas names."""
    try:
        choice = Choice.parse(name)
    except ArchitectureError:
        return ""
    if not is_structural(choice) or (choice.kind.in_blocks and choice.layer >= winner.depth):
        return ""
    return ("dropped" if choice.level == DROP else "chosen") if winner.drops(choice) else "kept"
