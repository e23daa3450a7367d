"""The `nas` program: its verbs, its exit codes, and one place where errors become one line.

Exit codes: 0 done · 1 failed · 2 wrong use · 3 no candidate meets the budget · 130 interrupted (Ctrl-C or SIGTERM).
With --json the last line of stdout is one document, of the result or of the error.
"""

import os
import sys
import traceback
import warnings
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from nas.cli import (
    analyze,
    certify,
    evaluate,
    export,
    families,
    heal,
    profile,
    pull,
    report,
    route,
    run,
    search,
    serve,
    sweep,
    targets,
    token,
    track,
)
from nas.cli.interruption import interruption
from nas.storage import user_account
from nas.storage.disk_errors import write_failure
from nas.storage.redact import remove_passwords
from search_spaces.errors import Interrupted, NasError, UnusedWeights, UsageError, WriteFailed


class _Program(TyperGroup):
    """Typer's, whose messages about wrong words on the command line quote no password of a URL."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            error.message = remove_passwords(error.message)
            raise


app = typer.Typer(
    name="nas",
    cls=_Program,
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


def _print_version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        print(f"nas {version('nas')}")
        raise typer.Exit()


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version."),
) -> None:
    pass


_VERBS = (
    search, sweep, certify, heal, run, route, analyze, families, profile, export, evaluate, report, track, pull, serve,
    token, targets,
)  # fmt: skip
for _verb in _VERBS:
    _verb.register(app)


def main() -> None:
    """Run the command line and leave with its exit code."""
    _silence_libraries()
    _print_own_warnings()
    user_account.settle()
    interruption.watch()
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        _end_as_typer_did(end)
    except KeyboardInterrupt:  # between two lines of typer; it turns the others into an exit
        _end(Interrupted())
    except BrokenPipeError:  # the reader of our output left early; that is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except NasError as error:
        _end(error)
    except Exception as error:
        reason = write_failure(error)
        if reason:
            _end(WriteFailed(f"{reason}, and run the same command again"))
        # A defect of ours, or of a library.
        print(remove_passwords(traceback.format_exc()), file=sys.stderr)
        _end(error, reported=True)


def _end_as_typer_did(end: SystemExit) -> NoReturn:
    """Typer has turned an exception into an exit, which keeps it as its context: wrong use, or an interruption.

    Any other exit is a verb's own, which has said what there was to say.
    """
    reason = end.__context__
    if isinstance(reason, typer.Exit) and isinstance(reason.__cause__, KeyboardInterrupt):
        _end(Interrupted())
    if isinstance(reason, typer.TyperException):
        _end(UsageError(reason.format_message()), reported=True)
    raise end


def _end(error: Exception, reported: bool = False) -> NoReturn:
    """Say what went wrong, to the person on stderr and with --json to the program on stdout, and leave."""
    from nas.cli.console import build_error_document, emit_json

    document = build_error_document(error)
    if not reported:
        print(f"nas: {document['error']['message']}", file=sys.stderr)
    if "--json" in sys.argv[1:]:
        emit_json(document)
    sys.exit(document["error"]["exit_code"])


def _silence_libraries() -> None:
    """Keep the libraries' own bars, telemetry and hub look-ups out of the way unless the user set them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _print_own_warnings() -> None:
    """Print our own warnings as one line; those of libraries stay as they are."""
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *location: Any, **more: Any) -> None:
        if issubclass(category, UnusedWeights):
            print(f"nas: {message}", file=sys.stderr, flush=True)
        else:
            others(message, category, *location, **more)

    warnings.showwarning = show
