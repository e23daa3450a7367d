"""`nas pull`: fetch a winner from MLflow."""

from pathlib import Path
from typing import Annotated

import typer

from nas.cli import options

_HELP = """Fetch a winner from MLflow: the best one of a registered model, a version of it, or that of a run.

Examples:

  nas pull python-lm_host_forward-batch=1,seq=256_0.6x-p90_1f3a9c07 --tracking-uri http://mlflow:5000

  nas pull python-lm_host_forward-batch=1,seq=256_0.6x-p90_1f3a9c07/2 --out ./second

  nas pull 0a1b2c3d4e5f60718293a4b5c6d7e8f9 --tracking-uri sqlite:///nas-results/python-lm-host-0.6x/mlflow.db
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("pull", help=_HELP)(pull)


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A registered model (its champion), NAME@ALIAS, NAME/VERSION, or the id of a run."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to make. Default: ./winner.")] = Path(
        "winner"
    ),
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", metavar="URI", help="MLflow. Default: MLFLOW_TRACKING_URI.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Fetch it, and say how to try it."""
    import os

    from nas.cli import console
    from nas.tracking import pull_winner
    from search_spaces.errors import UsageError

    progress = console.begin("pull")
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise UsageError("--tracking-uri is missing; give the address of MLflow, or set MLFLOW_TRACKING_URI")
    with progress.open_stage("fetching the winner"):
        pulled = pull_winner(name, uri, out)
    if json:
        document = {"folder": str(pulled.folder), "run_id": pulled.run_id, "model": pulled.model}
        console.emit_json({"schema_version": 1, **document, "version": pulled.version, "verdict": pulled.verdict})
        return
    which = f"run {pulled.run_id}" if pulled.model is None else f"version {pulled.version} of {pulled.model}"
    verdict = f"; {pulled.verdict}" if pulled.verdict else ""
    console.emit_text(f"{pulled.folder}: {which}{verdict}\ntry it with: nas run {pulled.folder} INPUT")
