"""`nas report`: one page about finished searches."""

from pathlib import Path
from typing import Annotated

import typer

from nas.cli import options

_HELP = """Write one HTML page about finished searches; it needs no other file and no network.

Every finished search has one as report.html. With several folders, it begins with a table that compares them.

Examples:

  nas report nas-results/python-lm-host-0.6x

  nas report nas-results/* --html comparison.html --send
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("report", help=_HELP)(report)


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RESULT_DIR...", help="Result folders of searches.")],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="The page. Default, for one folder: its report.html.")
    ] = None,
    send: Annotated[bool, typer.Option("--send", help="Add the page to the MLflow run of every search on it.")] = False,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", metavar="URI", help="MLflow. Default: where each was logged.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Write the page, send it where asked, say where it is."""
    from nas.cli import console
    from nas.report import REPORT, write_report
    from nas.tracking import log_page
    from search_spaces.errors import UsageError

    if html is None and len(folders) > 1:
        raise UsageError(f"{len(folders)} folders have no page of their own; say where it goes with --html FILE")
    page = html or folders[0] / REPORT
    searches = write_report(folders, page)
    sent = [log_page(page, folder, tracking_uri) for folder in folders] if send else []
    if json:
        console.emit_json({"schema_version": 1, "html": str(page), "searches": searches, "sent": sent})
    else:
        lines = [f"report  {page}", *(f"sent    run {each['run_id']} in {each['tracking_uri']}" for each in sent)]
        console.emit_text("\n".join(lines))
