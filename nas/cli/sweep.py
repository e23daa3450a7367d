"""`nas sweep`: a search for every model, target and budget, on Ray, and which model is right for each device."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import options

if TYPE_CHECKING:
    from nas.request.search_request import SearchRequest
    from nas.sweep.request import Sweep

_HELP = """Search for every combination of models, targets, budgets and seeds, and compare what was found.

Examples:

  nas sweep --targets jetson-orin,l4 --budgets 0.8x,0.6x --models digits-vit,minilm

  nas sweep --targets host --budgets 20ms,30ms --models ./small,./large --data texts.jsonl

  RAY_ADDRESS=head:6379 nas sweep --targets l4,h100 --budgets 0.7x --models ./my-model --data texts.jsonl --out /nfs/s

  nas sweep --resume nas-results/sweep
"""

Targets = Annotated[str | None, typer.Option("--targets", metavar="A,B", help="Devices of `nas targets`.")]
Budgets = Annotated[
    str | None, typer.Option("--budgets", metavar="A,B", help="Each 20ms, or 0.6x of that model's own latency.")
]
Models = Annotated[str, typer.Option("--models", metavar="A,B", help="Each a folder, a hub id or a reference model.")]
Seeds = Annotated[str, typer.Option("--seeds", metavar="A,B", help="Whole numbers; one search for each.")]
Cpus = Annotated[int, typer.Option("--cpus", min=1, help="CPUs that each search asks Ray for.")]
Concurrent = Annotated[
    int | None,
    typer.Option(
        "--concurrent", metavar="N", min=1, help="The most searches at once. Default: what the cluster has room for."
    ),
]
SweepStorage = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="The database of all studies. Default: files in the folders."),
]
SweepTracking = Annotated[
    str | None, typer.Option("--tracking-uri", metavar="URI", help="MLflow. Default: one database in OUT for all.")
]
SweepOut = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: nas-results/sweep.")]
SweepResume = Annotated[Path | None, typer.Option("--resume", metavar="DIR", help="Continue this sweep.")]


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("sweep", help=_HELP)(sweep)


def sweep(
    targets: Targets = None,
    budgets: Budgets = None,
    models: Models = "python-lm",
    seeds: Seeds = "0",
    data: options.Data = None,
    workload: options.WorkloadText = None,
    units: options.Units = "attention,cross-attention,mlp,block",
    tokens: options.Tokens = "off",
    percentile: options.Percentile = 90,
    trials: options.Trials = 48,
    cpus: Cpus = 1,
    concurrent: Concurrent = None,
    storage: SweepStorage = None,
    tracking_uri: SweepTracking = None,
    out: SweepOut = None,
    resume: SweepResume = None,
    dry_run: options.DryRun = False,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Parse the flags into a sweep, run it, print what it found."""
    from nas.request.quantities import Budget
    from nas.storage.disk_errors import check_folder
    from nas.sweep.request import Sweep, create_sweep, parse_list, parse_seed
    from search_spaces.errors import UsageError

    if resume is not None:
        _run(Sweep.load(resume), dry_run, json)
        return
    if targets is None or budgets is None:
        missing = "--targets" if targets is None else "--budgets"
        raise UsageError(f"{missing} is missing; write for example nas sweep --targets jetson-orin --budgets 0.8x,0.6x")
    asked = create_sweep(
        out or _choose_new_folder(),
        parse_list("--models", models, str),
        parse_list("--targets", targets, str),
        parse_list("--budgets", budgets, Budget.parse),
        parse_list("--seeds", seeds, parse_seed),
        storage=storage,
        tracking_uri=tracking_uri,
        cpus=cpus,
        concurrent=concurrent,
    )
    common = _build_common_request(asked, data, workload, units, tokens, percentile, trials, trust_remote_code)
    if not dry_run:
        check_folder(asked.out, "--out")
        asked.save(common)
    _run(asked, dry_run, json)


def _build_common_request(
    asked: "Sweep", data: Path | None, workload: str | None, units: str, tokens: str, percentile: int, trials: int,
    trust_remote_code: bool,
) -> "SearchRequest":  # fmt: skip
    """What all searches have in common; target and budget stand for those of each."""
    from latency_models.workload import Workload
    from nas.request.choices import check_tokens
    from nas.request.quantities import Budget
    from nas.request.search_request import SearchRequest, parse_units

    first = asked.cells[0]
    return SearchRequest(
        target=first.target,
        budget=Budget.parse(first.budget),
        out=asked.out,
        data=None if data is None else data.expanduser().resolve(),
        workload=None if workload is None else Workload.parse(workload),
        units=parse_units(units),
        tokens=check_tokens(tokens),
        percentile=percentile,
        trials=trials,
        trust_remote_code=trust_remote_code,
    )


def _run(asked: "Sweep", dry_run: bool, json: bool) -> None:
    from nas.cli import console
    from search_spaces.errors import Interrupted

    if dry_run:
        console.emit_json(_plan(asked)) if json else _print_plan(asked)
        return
    progress = console.begin("sweep")
    from nas.sweep.result import deliver
    from nas.sweep.run import run_sweep

    try:
        result = deliver(run_sweep(asked, progress))
    except KeyboardInterrupt:
        raise Interrupted(asked.resume_command) from None
    if json:
        console.emit_json(result.to_json())
    else:
        from nas.cli.sweep_summary import print_sweep

        print_sweep(result)
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def _plan(asked: "Sweep") -> dict[str, Any]:
    """The cells, in the order in which they are numbered."""
    from nas.sweep.cell import list_pilots

    pilots = list_pilots(asked.cells)
    cells = [{"cell": cell.name, **cell.params, "pilot": cell in pilots} for cell in asked.cells]
    return {"schema_version": 1, "out": str(asked.out), "cells": cells}


def _print_plan(asked: "Sweep") -> None:
    from rich.table import Table

    from nas.cli.console import emit_table
    from nas.sweep.cell import list_pilots, shorten_model_name

    pilots = list_pilots(asked.cells)
    table = Table(title=f"{len(asked.cells)} searches, into {asked.out}", title_justify="left",
                  caption="* runs first, as the pilot of its model", caption_justify="left")  # fmt: skip
    for name in ("folder", "model", "target", "budget", "seed"):
        table.add_column(name)
    for cell in asked.cells:
        star = " *" if cell in pilots else ""
        table.add_row(cell.name + star, shorten_model_name(cell.model), cell.target, cell.budget, str(cell.seed))
    emit_table(table)


def _choose_new_folder() -> Path:
    """The first unused folder for a sweep under nas-results/."""
    folders = (Path("nas-results") / ("sweep" if n == 1 else f"sweep-{n}") for n in range(1, 10_000))
    return next(folder for folder in folders if not folder.exists())
