"""What the person sees: messages and progress on stderr, results on stdout."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from nas.cli.interruption import interruption
from nas.progress import Progress, Stage
from nas.storage.redact import remove_passwords
from search_spaces.errors import NasError

_SECONDS_BETWEEN_LINES = 5.0  # without a terminal, at most one plain line in this time,
_SECONDS_OF_SILENCE = 20.0  # and one after as much silence
_TELLING = 0.1  # of the work has to be done before the pace tells of the rest


def get_stderr() -> Console:
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


def build_error_document(error: Exception) -> dict[str, Any]:
    """What `--json` prints in place of a result: the error's class, message, exit code and what else it carries."""
    message = remove_passwords(str(error))
    described = {"kind": type(error).__name__, "message": message, "exit_code": NasError.exit_code}
    if isinstance(error, NasError):
        carried = {name: value for name, value in vars(error).items() if not name.startswith("_")}
        described |= {"exit_code": error.exit_code, **carried}
    return {"schema_version": 1, "error": described}


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


class _TimeLeft(ProgressColumn):
    """What is left at the pace so far, as long as it says something."""

    def render(self, task: Task) -> Text:
        """Words, or nothing."""
        return Text(estimate_time_left(task.elapsed or 0.0, task.completed, task.total))


class BarProgress:
    """For a terminal: bars with a count and the time left; where nobody knows how much there is, the time gone."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show_message(self, text: str) -> None:
        """Print one line above the bar."""
        self._console.print(text, markup=False)

    @contextmanager
    def open_stage(self, title: str, total: float | None = None) -> Iterator[Stage]:
        """A line that stays on the screen when the stage ends."""
        name, note = TextColumn("{task.description:<28}"), TextColumn("{task.fields[note]}", markup=False)
        columns: tuple[ProgressColumn, ...] = (SpinnerColumn(), name, TimeElapsedColumn(), note)
        if total:
            columns = (name, BarColumn(bar_width=24), TaskProgressColumn(), TimeElapsedColumn(), _TimeLeft(), note)
        with Bar(*columns, console=self._console) as bar:
            yield _BarStage(bar, bar.add_task(title, total=total or None, note=""))


class _LineStage:
    """Tells when it begins and ends, how far it is when it advances, and that it goes on when it does not for long."""

    def __init__(self, title: str, total: float | None) -> None:
        self._title, self._total, self._done = title, total, 0.0
        self._began = self._reported = time.monotonic()
        self._ended = threading.Event()
        self._print("begins")
        threading.Thread(target=self._go_on, daemon=True).start()

    def advance(self, amount: float = 1, note: str = "") -> None:
        interruption.check()
        self._done += amount
        now = time.monotonic()
        if now - self._reported >= _SECONDS_BETWEEN_LINES:
            self._reported = now
            left = estimate_time_left(now - self._began, self._done, self._total)
            share = f"{100 * self._done / self._total:.0f} %" if self._total else ""
            self._print(", ".join(filter(None, (share, left, note))))

    def finish(self) -> None:
        self._print(f"done in {time.monotonic() - self._began:.1f} s")

    def stop(self) -> None:
        self._ended.set()

    def _go_on(self) -> None:
        while not self._ended.wait(_SECONDS_OF_SILENCE):
            now = time.monotonic()
            if now - self._reported >= _SECONDS_OF_SILENCE:
                self._reported = now
                self._print(f"still running, {now - self._began:.0f} s so far")

    def _print(self, words: str) -> None:
        print(f"{self._title}: {words}", file=sys.stderr, flush=True)


class LineProgress:
    """Plain lines, a few seconds apart: for logs and pipes."""

    def show_message(self, text: str) -> None:
        """Print one line."""
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def open_stage(self, title: str, total: float | None = None) -> Iterator[Stage]:
        """A stage told in plain lines."""
        stage = _LineStage(title, total)
        try:
            yield stage
            stage.finish()
        finally:
            stage.stop()


def estimate_time_left(gone_s: float, done: float, total: float | None) -> str:
    """What is left at the pace so far; nothing before a tenth is done, of which nobody knows the pace.

    Where nothing ends any more, what is left grows with the time gone.
    """
    if not total or done < _TELLING * total or done >= total:
        return ""
    seconds = gone_s * (total - done) / done
    return f"about {seconds:.0f} s left" if seconds < 90 else f"about {seconds / 60:.0f} min left"


def open_progress() -> Progress:
    """Bars on a terminal, plain lines elsewhere."""
    console = get_stderr()
    return BarProgress(console) if console.is_terminal else LineProgress()


def begin(work: str) -> Progress:
    """The progress of a verb, told at once what it is about to do: loading what it works with takes seconds."""
    progress = open_progress()
    progress.show_message(f"{work}: loading the libraries")
    return progress
