"""How long work reports on itself; the command line decides how it looks."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Stage(Protocol):
    """One stretch of work."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Say that `amount` more of the stage's total is done; `note` is shown beside it."""


class Progress(Protocol):
    """Receives messages and stages."""

    def message(self, text: str) -> None:
        """Tell the person one line."""

    def stage(self, title: str, total: float | None = None) -> AbstractContextManager[Stage]:
        """A context manager that yields the `Stage` and ends it."""


@contextmanager
def timed_stage(progress: Progress, title: str, limit_s: float | None = None) -> Iterator[Callable[[float], None]]:
    """A stage that is told which share of it is done, from 0 to 1, and shows the time left.

    Args:
        limit_s: the most it takes, which is shown too; None where there is no limit.
    """
    began, done = time.monotonic(), 0.0
    with progress.stage(title, total=100) as stage:

        def on_share(share: float) -> None:
            nonlocal done
            gone = time.monotonic() - began
            left = f"about {gone / share - gone:.0f} s left" if share > 0 else ""
            most = f"{max(0.0, limit_s - gone):.0f} s at most" if limit_s is not None else ""
            stage.advance(100 * (share - done), ", ".join(filter(None, (left, most))))
            done = share

        yield on_share


class _SilentStage:
    def advance(self, amount: float = 1, note: str = "") -> None:
        """Nobody is told."""


class Silent:
    """Tells nobody: for use as a library."""

    def message(self, text: str) -> None:
        """Nobody is told."""

    @contextmanager
    def stage(self, title: str, total: float | None = None) -> Iterator[Stage]:
        """A stage that reports nothing."""
        yield _SilentStage()
