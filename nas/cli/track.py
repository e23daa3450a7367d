"""`nas track`: send what could not be logged to MLflow."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli import options

_HELP = """Send to MLflow what finished searches could not log, because the server was down.

Sending twice is the same as sending once: a run that was half-written is completed.

Examples:

  nas track nas-results/python-lm-host-0.6x

  nas track nas-results/* --tracking-uri https://mlflow.example
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("track", help=_HELP)(track)


def track(
    folders: Annotated[list[Path], typer.Argument(metavar="RESULT_DIR...", help="Result folders of searches.")],
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", metavar="URI", help="MLflow. Default: where the search was to log.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Send each folder's record; what fails stays and makes the exit code 1."""
    from nas.cli import console
    from nas.tracking import send_pending

    sent = [(folder, send_pending(folder, tracking_uri)) for folder in folders]
    if json:
        document = {"schema_version": 1, "folders": [{"out": str(folder), "mlflow": logged} for folder, logged in sent]}
        console.emit_json(document)
    else:
        console.emit_text("\n".join(f"{folder}: {_describe(logged)}" for folder, logged in sent))
    if any(logged and "problem" in logged for _, logged in sent):
        raise typer.Exit(1)


def _describe(logged: dict[str, Any] | None) -> str:
    if logged is None:
        return "nothing to send"
    if "problem" in logged:
        return str(logged["problem"])
    words = f"run {logged['run_id']} in {logged['tracking_uri']}"
    model = logged.get("registered_model")
    return words if model is None else f"{words}; {_read_model(model)}"


def _read_model(model: dict[str, Any]) -> str:
    return f"version {model['version']} of {model['name']}" + (", its champion" if model["champion"] else "")
