"""`nas` as a person types it, run inside the test process: what takes seconds to import is imported once.

Signals, streams of a terminal and what is imported before what need a process of their own; the rest does not.
"""

import contextlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from nas.cli import main

_TAKEN_OVER = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Done:
    """What is left of a program that ended."""

    returncode: int
    stdout: str
    stderr: str


def nas(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Done:
    """Run the program and give back its exit code and what it printed.

    Args:
        cwd: the folder it is started in.
        env: environment variables beside those of the test.
    """
    out, err = io.StringIO(), io.StringIO()
    with _as_before(), contextlib.chdir(cwd or Path.cwd()), mock.patch.object(sys, "argv", ["nas", *arguments]):
        os.environ.update(env or {})
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            main()
    return Done(int(end.value.code or 0), out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Put back what the program changes in its process: environment, signal handlers, how warnings are shown."""
    handlers = {number: signal.getsignal(number) for number in _TAKEN_OVER}
    with mock.patch.dict(os.environ), warnings.catch_warnings():
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
