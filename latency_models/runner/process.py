"""A child process that never outlives its parent: sessions of the runner, the runner itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .failure import MeasuringFailed

ERROR = "error: "  # begins the one line in which a child says why it failed


def run_tied(command: Sequence[str], folder: Path, log: Path, on_line: Callable[[dict[str, Any]], None]) -> None:
    """Run a command in `folder` that ends when this process does; its stderr goes into `log`.

    Args:
        command: has an option by which the child calls `tie`.
        on_line: is given each JSON object that it writes on a line of its own; libraries may write there too.

    Raises:
        MeasuringFailed: the child failed; the message is the error it wrote.
    """
    with log.open("w") as errors:
        child = subprocess.Popen(
            list(command), cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        for line in child.stdout:
            message = _parse(line)
            if message is not None:
                on_line(message)
        code = child.wait()
    finally:
        child.stdin.close()  # the child reads the end of its input and ends
        child.stdout.close()
        _await(child)
    if code:
        raise MeasuringFailed(_find_reason(code, log))


def tie(end: Callable[[], None]) -> None:
    """Call `end` when the parent is gone: the parent holds the other side of this process's standard input."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        end()

    threading.Thread(target=watch, daemon=True).start()


def _parse(line: str) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def _await(child: subprocess.Popen[str]) -> None:
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _find_reason(code: int, log: Path) -> str:
    errors = [line for line in log.read_text(errors="replace").splitlines() if line.startswith(ERROR)]
    if errors:
        return errors[-1][len(ERROR) :]
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"the process that measures {how} without a reason; what was measured is kept: run it again"
