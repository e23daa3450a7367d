"""Tables of what the verbs of `scale.py` wrote."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

STAGES = ("library", "way down", "seeds", "proposals", "finals")
WORTH = 1.15  # times as fast with the next number of workers: less is called the end of scaling


def write_report(files: Sequence[Path]) -> str:
    verbs = {"overhead": _format_overhead, "workers": _format_workers, "simulate": _simulate}
    documents = [json.loads(file.read_text()) for file in files]
    return "\n\n".join("\n".join(verbs[document["verb"]](document)) for document in documents)


def _format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _format_overhead(document: dict[str, Any]) -> Iterator[str]:
    driver, real, idle, evaluation = document["driver"], document["real"], document["idle"], document["evaluation_s"]
    count = document["first_search"]["evaluations"]

    def format_row(name: str, seconds: float) -> tuple[str, str, str]:
        return name, f"{1e3 * seconds:.2f}", f"{seconds / evaluation:.2%}"

    rows = [
        format_row(f"an evaluation, one thread, {document['precision']} (mean of {count})", evaluation),
        format_row(f"Ray, {real['tasks']} real tasks beside this process", real["extra_s"]),
        format_row(f"Ray, tasks that do nothing, {document['batch']} at a time", idle["batched_s"]),
        format_row("Ray, tasks that do nothing, all at once", idle["single_s"]),
        format_row("driver: the search, everything known", driver["search_s"] / count),
        format_row("driver: keeping what is new", driver["keep_s"] / count),
        format_row("driver, first search, all but evaluating", document["first_search"]["driver_s"] / count),
        format_row(
            "**together** (the larger of Ray's, and the driver)", document["ray_s"] + driver["per_evaluation_s"]
        ),
    ]
    yield from _format_table((f"{document['model']}, per evaluation", "ms", "of an evaluation"), rows)
    yield ""
    parts = sorted(driver["parts_s"].items(), key=lambda part: -part[1])
    rows = [
        (name, f"{seconds:.3f}", f"{seconds / driver['watched_s']:.1%}", f"{driver['calls'].get(name, 0):,}")
        for name, seconds in parts
    ]
    yield from _format_table((f"driver, {driver['watched_s']:.2f} s", "s", "share", "calls"), rows)


def _format_workers(document: dict[str, Any]) -> Iterator[str]:
    head = (document["model"], "tasks per second", "ratio", "over rounds")
    spread = f"{min(document['ratios']):.3f} to {max(document['ratios']):.3f}"
    rows = [
        ("two plain processes", f"{document['plain_per_s']:.2f}", "1", ""),
        ("two Ray workers", f"{document['ray_per_s']:.2f}", f"{document['ratio']:.3f}", spread),
    ]
    yield from _format_table(head, rows)


def _simulate(document: dict[str, Any]) -> Iterator[str]:
    searches = {search["batch"]: search for search in document["searches"]}
    rows = [
        (
            f"{run['batch']}", f"{run['workers']}", f"{run['seconds']:.1f}", f"{run['speed_up']:.2f}",
            f"{run['busy']:.0%}", f"{run['driver_s'] / run['seconds']:.0%}",
            f"{searches[run['batch']]['evaluations']}", f"{searches[run['batch']]['loss']:.4f}",
        )
        for run in document["runs"]
    ]  # fmt: skip
    head = ("batch", "workers", "seconds", "speed-up", "workers busy", "driver busy", "evaluations", "winner's loss")
    yield from _format_table(head, rows)
    yield ""
    yield from _format_stages(document, searches)
    yield ""
    yield from (f"* {_describe_end(document, search)}" for search in searches.values())


def _format_stages(document: dict[str, Any], searches: dict[int, dict[str, Any]]) -> Iterator[str]:
    """Seconds, and how many tasks a call of the stage has at the mean and at most."""
    rows = []
    for run in document["runs"]:
        widths = searches[run["batch"]]["stages"]
        cells = [_format_cell(run, widths, stage) for stage in STAGES]
        rows.append((f"{run['batch']}", f"{run['workers']}", *cells))
    yield from _format_table(("batch", "workers", *(f"{stage}: s (driver; tasks per call)" for stage in STAGES)), rows)


def _format_cell(run: dict[str, Any], widths: dict[str, dict[str, float]], stage: str) -> str:
    seconds, driver = run["by_stage"].get(stage, 0.0), run["driver_by_stage"].get(stage, 0.0)
    each = widths[stage]["tasks"] / max(1, widths[stage]["calls"])
    return f"{seconds:.1f} ({driver:.1f}; {each:.1f})"


def _describe_end(document: dict[str, Any], search: dict[str, Any]) -> str:
    """Up to how many workers the search gets faster, and what it then waits for."""
    runs = sorted((run for run in document["runs"] if run["batch"] == search["batch"]), key=lambda run: run["workers"])
    last = runs[0]
    for run in runs[1:]:
        if last["seconds"] / run["seconds"] < WORTH:
            break
        last = run
    stages = sorted(last["by_stage"].items(), key=lambda stage: -stage[1])[:2]
    waits = ", ".join(_describe_waits(last, search["stages"], stage) for stage, _ in stages)
    return f"batch {search['batch']}: scales up to {last['workers']} workers ({last['speed_up']:.1f} x), then {waits}"


def _describe_waits(run: dict[str, Any], widths: dict[str, dict[str, float]], stage: str) -> str:
    seconds, width = run["by_stage"][stage], widths[stage]
    driver = run["driver_by_stage"][stage] / max(seconds, 1e-9)
    one_by_one = f"{width['calls']:.0f} calls one after another, at most {width['most']:.0f} tasks in each"
    return f"{stage} is {seconds / run['seconds']:.0%} of the time (driver {driver:.0%} of that; {one_by_one})"
