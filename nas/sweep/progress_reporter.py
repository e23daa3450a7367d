"""Telling the person how a sweep goes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Optional

from nas.progress import Progress, Stage
from nas.sweep.cell import Cell, list_pilots
from nas.sweep.outcome import read_outcome
from nas.sweep.request import Sweep
from nas.sweep.row import Row, build_row


class Teller:
    """Says each cell as it ends, how many are left, and which is the best so far; notes whose workers died."""

    current: ClassVar[Optional["Teller"]] = None

    def __init__(self, sweep: Sweep, progress: Progress) -> None:
        self._sweep, self._progress = sweep, progress
        self._cells = {tuple(cell.params.items()): cell for cell in sweep.cells}
        self._pilots = list_pilots(sweep.cells)
        self._rows: list[Row] = []
        self._stage: Stage | None = None
        self.died: dict[str, str] = {}  # reasons by the cells' names

    @contextmanager
    def listen(self) -> Iterator[None]:
        """For the time of the sweep."""
        with self._progress.open_stage("sweep", total=len(self._sweep.cells)) as self._stage:
            Teller.current = self
            try:
                for cell in self._sweep.cells:
                    if read_outcome(self._sweep.get_folder(cell)) is not None:
                        self._count(cell)
                yield
            finally:
                Teller.current = None

    @staticmethod
    def build_callback() -> Any:
        """What Ray calls. It holds nothing, since Ray keeps it in the sweep's folder: it finds who listens now."""
        from ray.tune import Callback

        class Told(Callback):  # type: ignore[misc]  # ray carries no types
            def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
                if Teller.current is not None:
                    Teller.current.count_ended(trial.config)

            def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
                if Teller.current is not None:
                    Teller.current.report_lost(trial.config)

        return Told()

    def count_ended(self, config: dict[str, Any]) -> None:
        """A trial reported."""
        cell = self._find_cell(config)
        if all(row.cell != cell for row in self._rows):
            self._count(cell)
            self._progress.show_message(f"{len(self._rows)} of {len(self._sweep.cells)}: {_describe(self._rows[-1])}")

    def report_lost(self, config: dict[str, Any]) -> None:
        """A trial's workers died more often than it is tried again."""
        cell = self._find_cell(config)
        self.died[cell.name] = "its worker died each time; check its memory, then resume the sweep"
        self._progress.show_message(f"{cell.title}: {self.died[cell.name]}")

    def _find_cell(self, config: dict[str, Any]) -> Cell:
        return self._cells[tuple((name, config[name]) for name in ("model", "target", "budget", "seed"))]

    def _count(self, cell: Cell) -> None:
        folder = self._sweep.get_folder(cell)
        outcome = read_outcome(folder)
        assert outcome is not None, "a trial reports after its outcome is written"
        self._rows.append(build_row(cell, folder, outcome, cell in self._pilots))
        if self._stage is not None:
            self._stage.advance(1, self._describe_best())

    def _describe_best(self) -> str:
        """What loses least of its parent per saved time would need a taste; this is what saves most time."""
        won = [row for row in self._rows if row.winner is not None]
        if not won:
            return ""
        best = max(won, key=_compute_speedup)
        return f"best so far {_compute_speedup(best):.2f} x as fast: {best.cell.title}"


def _compute_speedup(row: Row) -> float:
    return 0.0 if row.winner is None or row.parent is None else row.parent.ms / row.winner.ms


def _describe(row: Row) -> str:
    seconds = f"{row.outcome.seconds:.0f} s"
    if row.winner is None:
        return f"{row.cell.title}: {row.outcome.state} ({seconds}): {row.outcome.reason}"
    score = row.winner.score
    return f"{row.cell.title}: {score.metric} {score.value:.4g} at {row.winner.ms:.3g} ms ({seconds})"
