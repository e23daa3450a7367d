"""What the person sees: messages and progress on stderr, results on stdout."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from nas.cli.interruption import interruption
from nas.progress import Progress, Stage
from nas.uri import without_passwords
from search_spaces.errors import NasError

_SECONDS_BETWEEN_LINES = 5.0  # without a terminal, at most one plain line in this time


def stderr() -> Console:
    """The console for messages; plain when stderr is no terminal or NO_COLOR is set."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def emit_json(document: dict[str, Any]) -> None:
    """Print exactly one JSON document on stdout: indented on a terminal, else one line of ASCII, after all messages.

    A log that takes both streams (a Ray job, a container) can then be read by its last line.
    """
    if sys.stdout.isatty():
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    else:
        text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    sys.stderr.flush()
    print(text, flush=True)


def error_document(error: Exception) -> dict[str, Any]:
    """What `--json` prints in place of a result: the error's class, message, exit code and what else it carries."""
    message = without_passwords(str(error))
    found = {"kind": type(error).__name__, "message": message, "exit_code": NasError.exit_code}
    if isinstance(error, NasError):
        carried = {name: value for name, value in vars(error).items() if not name.startswith("_")}
        found |= {"exit_code": error.exit_code, **carried}
    return {"schema_version": 1, "error": found}


def emit_table(table: Table) -> None:
    """Print a table on stdout, wide enough for its cells when stdout is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(table)


def emit_text(text: str) -> None:
    """Print lines on stdout."""
    Console(highlight=False, soft_wrap=True, markup=False).print(text)


class _BarStage:
    def __init__(self, bar: Bar, task: Any) -> None:
        self._bar, self._task = bar, task

    def advance(self, amount: float = 1, note: str = "") -> None:
        interruption.check()
        self._bar.update(self._task, advance=amount, note=note)


class BarProgress:
    """Bars with a count, the best so far, the time gone and the time left: for a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def message(self, text: str) -> None:
        """Print one line above the bar."""
        self._console.print(text, markup=False)

    @contextmanager
    def stage(self, title: str, total: float | None = None) -> Iterator[Stage]:
        """A bar that stays on the screen when the stage ends."""
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Bar(*columns, console=self._console) as bar:
            yield _BarStage(bar, bar.add_task(title, total=total, note=""))


class _LineStage:
    def __init__(self, title: str, total: float | None) -> None:
        self._title, self._total, self._done = title, total, 0.0
        self._began = self._told = time.monotonic()

    def advance(self, amount: float = 1, note: str = "") -> None:
        interruption.check()
        self._done += amount
        now = time.monotonic()
        if now - self._told >= _SECONDS_BETWEEN_LINES:
            self._told = now
            of = f"/{self._total:.0f}" if self._total else ""
            print(f"{self._title}: {self._done:.0f}{of}  {note}".rstrip(), file=sys.stderr, flush=True)

    def finish(self) -> None:
        seconds = time.monotonic() - self._began
        print(f"{self._title}: done in {seconds:.1f} s", file=sys.stderr, flush=True)


class LineProgress:
    """Plain lines, a few seconds apart: for logs and pipes."""

    def message(self, text: str) -> None:
        """Print one line."""
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, title: str, total: float | None = None) -> Iterator[Stage]:
        """A stage told in plain lines."""
        stage = _LineStage(title, total)
        yield stage
        stage.finish()


def progress_for_stderr() -> Progress:
    """Bars on a terminal, plain lines elsewhere."""
    console = stderr()
    return BarProgress(console) if console.is_terminal else LineProgress()
