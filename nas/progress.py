"""How long work reports on itself; the command line decides how it looks."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Protocol, TypeVar

_T = TypeVar("_T")


class Stage(Protocol):
    """One stretch of work."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Say that `amount` more of the stage's total is done; `note` is shown beside it."""


class Progress(Protocol):
    """Receives messages and stages."""

    def show_message(self, text: str) -> None:
        """Tell the person one line."""

    def open_stage(self, title: str, total: float | None = None) -> AbstractContextManager[Stage]:
        """A context manager that yields the `Stage` and ends it."""


@contextmanager
def open_timed_stage(progress: Progress, title: str, limit_s: float | None = None) -> Iterator[Callable[[float], None]]:
    """A stage that is told which share of it is done, from 0 to 1; the time left follows from that.

    Args:
        limit_s: the most it takes, which is shown beside it; None where there is no limit.
    """
    began, done = time.monotonic(), 0.0
    with progress.open_stage(title, total=100) as stage:

        def on_share(share: float) -> None:
            nonlocal done
            elapsed = time.monotonic() - began
            note = "" if limit_s is None else f"{max(0.0, limit_s - elapsed):.0f} s at most"
            stage.advance(100 * (share - done), note)
            done = share

        yield on_share


class _SilentStage:
    def advance(self, amount: float = 1, note: str = "") -> None:
        """Nobody is told."""


class Silent:
    """Tells nobody: for use as a library."""

    def show_message(self, text: str) -> None:
        """Nobody is told."""

    @contextmanager
    def open_stage(self, title: str, total: float | None = None) -> Iterator[Stage]:
        """A stage that reports nothing."""
        yield _SilentStage()


class Timed:
    """Passes on what it is told, and keeps how long every stage took, without those in it: the phases of the work."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._seconds, self._inner = progress, dict[str, float](), [0.0]

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by title, in the order of the first beginnings; stages of one title together."""
        return {title: round(seconds, 1) for title, seconds in self._seconds.items()}

    def show_message(self, text: str) -> None:
        """Pass it on."""
        self._progress.show_message(text)

    @contextmanager
    def open_stage(self, title: str, total: float | None = None) -> Iterator[Stage]:
        """Pass it on, and note its seconds when it ends."""
        began = time.monotonic()
        self._seconds.setdefault(title, 0.0)
        self._inner.append(0.0)
        try:
            with self._progress.open_stage(title, total) as stage:
                yield stage
        finally:
            seconds = time.monotonic() - began
            self._seconds[title] += seconds - self._inner.pop()
            self._inner[-1] += seconds


class Phases:
    """Shows work that names its own phases: a stage begins when it is first spoken of, and ends with the next."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._held, self._title, self._done = progress, ExitStack(), "", 0.0
        self._stage: Stage = _SilentStage()

    def __enter__(self) -> "Phases":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held.__exit__(kind, error, at)

    def report(self, title: str, done: float, total: float, note: str = "") -> None:
        """Say how far a phase is; one that is less far than before has begun again."""
        if title != self._title or done < self._done:
            self._held.close()
            self._stage = self._held.enter_context(self._progress.open_stage(title, total))
            self._title, self._done = title, 0.0
        self._stage.advance(done - self._done, note)
        self._done = done


def track_items(progress: Progress, title: str, items: Sequence[_T]) -> Iterator[_T]:
    """The items one after another, as a stage that knows how many there are."""
    with progress.open_stage(title, total=len(items)) as stage:
        for item in items:
            yield item
            stage.advance()
