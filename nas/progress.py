"""How long work reports on itself; the command line decides how it looks."""

from collections.abc import Iterator
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
