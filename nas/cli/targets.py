"""`nas targets`: the devices a latency can be asked for."""

import typer

from nas.cli import options

_HELP = """List the targets: this machine, and devices known from their data sheets.

Examples:

  nas targets

  nas targets --json
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("targets", help=_HELP)(targets)


def targets(json: options.Json = False) -> None:
    """Print every target with its peaks, bandwidth and source."""
    from latency_models.targets import aliases, all_targets
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
            for t in all_targets()
        ]
        console.emit_json({"schema_version": 1, "targets": rows, "aliases": aliases()})
        return
    from rich.table import Table

    caption = "Data-sheet targets are predicted, not measured; * is a module's default mode"
    table = Table(title="Targets", caption=caption, title_justify="left", caption_justify="left")
    for name in ("name", "latency"):
        table.add_column(name)
    table.add_column("peak T(FL)OP/s dense", justify="right")
    table.add_column("GB/s", justify="right")
    table.add_column("source")
    for t in all_targets():
        if t.sheet is None:
            table.add_row(t.name, "measured here", "", "", t.note)
        else:
            star = " *" if t.sheet.default else ""
            peak, speed = f"{t.sheet.peaks[t.precision]:.2f}", f"{t.sheet.bandwidth:.0f}"
            table.add_row(t.name + star, "data sheet", peak, speed, t.sheet.source)
    console.emit_table(table)
    console.emit_text("\n".join(f"{short} stands for {full}" for short, full in aliases().items()))
