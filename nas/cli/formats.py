"""`nas export RESULT_DIR --format …`: a winner in the forms that other programs load."""

from pathlib import Path
from typing import Any

_WINNER, _FORMATS = "winner", "formats"  # of a result folder


def export_formats(
    text: str, folder: Path, out: Path | None, trust_remote_code: bool, json: bool, print_command: bool = False
) -> None:
    """Write every format that is named, compare each with the model, and print the table.

    Args:
        text: names of formats, with commas.
        folder: a result folder, or that of a model.
        out: for the folders; the report of a search lies in its result folder all the same.
        print_command: print llama.cpp's line for the same, too.

    Raises:
        UsageError: a name that is no format, a folder that holds no model, or a model that no such line makes.
        MissingExtra: what a format needs is not installed.
        Exit: some format was refused (2), or failed (1); all others are there.
    """
    import typer

    from nas.cli import console

    progress = console.begin("export")
    from nas.formats import (
        build_quantize_command,
        deliver_formats,
        make_parent_source,
        parse_formats,
        read_source,
        write_parity,
    )
    from nas.storage.disk_errors import check_folder
    from search_spaces.errors import UsageError

    names = parse_formats(text)
    if print_command and "gguf" not in names:
        raise UsageError(f"--print-command with --format {text}: the line is one of llama.cpp; add gguf")
    winner = folder / _WINNER if (folder / _WINNER).is_dir() else folder
    out = out or (folder / _FORMATS if winner != folder else Path("nas-results") / f"{folder.resolve().name}-formats")
    check_folder(out, "--out")
    with progress.open_stage("loading"):
        parent = _load_parent(winner, trust_remote_code)
        source = read_source(winner, parent, trust_remote_code)
    command = build_quantize_command(source) if print_command else None  # a model that no line makes is refused at once
    delivered = deliver_formats(names, source, parent and make_parent_source(parent), out, progress)
    place = folder if winner != folder else out
    place.mkdir(parents=True, exist_ok=True)
    report, table = write_parity(delivered.rows, place, winner / "README.md" if winner != folder else None)
    if winner != folder:
        _send([report, table], folder, progress)
    _print(delivered, out, table, command, json)
    if delivered.problem is not None:
        console.get_stderr().print(f"nas: {delivered.problem}", markup=False)
        raise typer.Exit(delivered.problem.exit_code)


def _load_parent(winner: Path, trust_remote_code: bool) -> Any:
    """The parent of the search that found a model; None where its folder lies in no result folder."""
    from nas.parent.parent import load_parent_model
    from nas.request.search_request import read_search_of

    request = read_search_of(winner)
    return None if request is None else load_parent_model(request.model, None, trust_remote_code, part=request.part)


def _send(files: list[Path], out: Path, progress: Any) -> None:
    """Add the report to the search's run in MLflow; where that is not possible, say so."""
    from nas.tracking import log_page
    from search_spaces.errors import TrackingError, UsageError

    try:
        for file in files:
            log_page(file, out)
    except (TrackingError, UsageError) as error:
        progress.show_message(f"the parity report is not in MLflow: {error}")


def _print(delivered: Any, out: Path, table: Path, command: str | None, json: bool) -> None:
    from dataclasses import asdict

    from nas.cli import console

    if json:
        rows = {row.format: {"state": row.state, **asdict(row)} for row in delivered.rows}
        document = {"schema_version": 1, "out": str(out), "report": str(table), "formats": rows}
        console.emit_json(document | ({} if command is None else {"command": command}))
        return
    console.emit_text(f"{table.read_text()}\nwritten to {out}, table in {table}")
    if command is not None:
        from nas.formats import QUANTIZE_NOTE

        console.emit_text(f"\n{command}\n\n{QUANTIZE_NOTE}")
