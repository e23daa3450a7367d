"""`nas targets`: the devices a latency can be asked for; `nas targets show`: the latency model of one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import options

if TYPE_CHECKING:
    from nas.profiling.target_report import TargetReport

_HELP = """List the targets: this machine, and devices known from their data sheets.

Examples:

  nas targets

  nas targets --json

  nas targets show jetson-orin
"""

_SHOW_HELP = """Show the latency model of a target: terms, roofs, errors, energy and memory.

Examples:

  nas targets show jetson-orin --workload decode:batch=1,past=1024

  nas targets show host --model ./my-model --figure measured-against-predicted.png

  nas targets show jetson-orin --profile profile.json
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    group = typer.Typer(help=_HELP)
    group.callback(invoke_without_command=True)(targets)
    group.command("show", help=_SHOW_HELP)(show)
    app.add_typer(group, name="targets")


def targets(context: typer.Context, json: options.Json = False) -> None:
    """Print every target with its peaks, bandwidth and source."""
    if context.invoked_subcommand is not None:
        return
    from latency_models.targets import list_aliases, list_targets
    from nas.cli import console

    if json:
        rows = [
            {
                "name": t.name,
                "runtime": t.runtime,
                "precision": t.precision,
                "measured": t.is_host,
                "peak_tflops": None if t.sheet is None else round(t.sheet.peaks[t.precision], 3),
                "bandwidth_gb_s": None if t.sheet is None else round(t.sheet.bandwidth, 1),
                "default_mode": t.sheet is not None and t.sheet.default,
                "source": t.note if t.sheet is None else t.sheet.source,
            }
            for t in list_targets()
        ]
        console.emit_json({"schema_version": 1, "targets": rows, "aliases": list_aliases()})
        return
    from rich.table import Table

    caption = "Data-sheet targets are predicted, not measured; * is a module's default mode"
    table = Table(title="Targets", caption=caption, title_justify="left", caption_justify="left")
    for name in ("name", "latency"):
        table.add_column(name)
    table.add_column("peak T(FL)OP/s dense", justify="right")
    table.add_column("GB/s", justify="right")
    table.add_column("source")
    for t in list_targets():
        if t.sheet is None:
            table.add_row(t.name, "measured here", "", "", t.note)
        else:
            star = " *" if t.sheet.default else ""
            peak, speed = f"{t.sheet.peaks[t.precision]:.2f}", f"{t.sheet.bandwidth:.0f}"
            table.add_row(t.name + star, "data sheet", peak, speed, t.sheet.source)
    console.emit_table(table)
    console.emit_text("\n".join(f"{short} stands for {full}" for short, full in list_aliases().items()))


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A device of `nas targets`.")],
    model: options.Model = None,
    workload: options.WorkloadText = None,
    profile: Annotated[
        Path | None, typer.Option("--profile", metavar="FILE", help="A profile.json that was measured on the target.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="PNG", help="Draw measured against predicted.")
    ] = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Print what is known of a target, from measurements where there are any and else from its data sheet."""
    from latency_models.targets import find_target
    from latency_models.workload import Workload
    from nas.cli import console
    from nas.profiling.target_report import report_profile, report_target

    target, wanted = find_target(name), None if workload is None else Workload.parse(workload)
    if profile is not None:
        report = report_profile(target, profile, wanted, model, trust_remote_code)
    else:
        report = report_target(target, model, wanted, trust_remote_code)
    if figure is not None:
        report.draw(figure)
    if json:
        console.emit_json(report.to_json())
        return
    _print(report)


def _print(report: "TargetReport") -> None:
    from rich.table import Table

    from nas.cli import console

    table = Table(title=report.title, caption=report.caption, title_justify="left", caption_justify="left")
    table.add_column("term")
    for heading in ("units", "ms of one", "ms in the parent", "TFLOP/s", "GB/s"):
        table.add_column(heading, justify="right")
    table.add_column("bound by")
    for rate in report.rates:
        numbers = ["" if value is None else f"{value:.3g}" for value in (rate.tflops, rate.gb_s)]
        whole = f"{rate.ms * rate.units:.3f}"
        table.add_row(rate.term, str(rate.units), f"{rate.ms:.4f}", whole, *numbers, rate.roof or "")
    console.emit_table(table)
    console.emit_text("\n".join(f"{name:<12}{text}" for name, text in report.list_lines()))
