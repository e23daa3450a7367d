"""One cell in a worker: its search, in its own folder."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.progress import Stage
from nas.request.search_request import SearchRequest
from nas.sweep.outcome import Outcome, read_outcome
from search_spaces.errors import NasError, NoFeasibleCandidate

LOG = "log.txt"


def run_cell(folder: Path, device: str | None = None) -> Outcome:
    """The search of a folder's request; of one that has ended its outcome, at once.

    Whatever the search raises is an outcome too. Only the worker's death is left to Ray, which tries again; the search
    then goes on where it was.

    Args:
        device: the resource of the node that measures, if the cluster has one.
    """
    from filelock import FileLock

    # A driver that died may have left a worker that has not noticed yet.
    with FileLock(folder / "cell.lock"):
        outcome = read_outcome(folder)
        if outcome is None:
            outcome = _search(folder, device)
            outcome.save(folder)
        return outcome


def _search(folder: Path, device: str | None) -> Outcome:
    from nas.execution.device_node import Node
    from nas.pipeline.run import run

    began, log = time.monotonic(), Log(folder / LOG)
    try:
        run(SearchRequest.load(folder), log, None if device is None else Node(device))
    except NoFeasibleCandidate as error:
        seconds = time.monotonic() - began
        return Outcome("infeasible", seconds, str(error), error.budget_ms, error.closest_ms)
    except NasError as error:
        return Outcome("failed", time.monotonic() - began, str(error))
    except Exception as error:  # a defect must not take the other cells with it
        log.show_message(traceback.format_exc())
        return Outcome("failed", time.monotonic() - began, f"{type(error).__name__}: {error} (see {log.path})")
    return Outcome("winner", time.monotonic() - began)


class _LoggedStage:
    def advance(self, amount: float = 1, note: str = "") -> None:
        """Not worth a line in a file."""


class Log:
    """Progress as lines of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def show_message(self, text: str) -> None:
        """Append one line."""
        with self.path.open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    @contextmanager
    def open_stage(self, title: str, total: float | None = None) -> Iterator[Stage]:
        """A stage; its seconds are noted when it ends."""
        began = time.monotonic()
        yield _LoggedStage()
        self.show_message(f"{title}: {time.monotonic() - began:.1f} s")
