"""The `nas` program: its verbs, its exit codes, and one place where errors become one line.

Exit codes: 0 done · 1 failed · 2 wrong use · 3 no candidate meets the budget · 130 interrupted.
"""

import os
import sys

import typer

from nas.cli import analyze, certify, evaluate, export, profile, search, targets
from search_spaces.errors import NasError

INTERRUPTED = 130

app = typer.Typer(
    name="nas",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "Get the best version of a trained transformer that meets a latency budget on a device.\n\n"
        "Examples:\n\n"
        "  nas search --target jetson-orin --budget 20ms\n\n"
        "  nas search --model ./my-model --data texts.jsonl --target host --budget 0.6x\n\n"
        "  nas analyze --model ./my-model\n\n"
        "  nas targets"
    ),
)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        print(f"nas {version('nas')}")
        raise typer.Exit()


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


for _verb in (search, certify, analyze, profile, export, evaluate, targets):
    _verb.register(app)


def main() -> None:
    """Run the command line and leave with its exit code."""
    _quiet_libraries()
    try:
        app(standalone_mode=True)
    except NasError as error:
        print(f"nas: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("nas: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output left early; that is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _quiet_libraries() -> None:
    """Keep the libraries' own bars, telemetry and hub look-ups out of the way unless the user set them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
