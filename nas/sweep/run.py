"""Running a sweep: every cell a trial of Ray Tune, one Optuna study over all of them, resumed where it was."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from nas.progress import Progress
from nas.sweep.cell import list_pilots
from nas.sweep.order import PilotsFirst
from nas.sweep.outcome import CELL, LOSS, OVER_MS, REASON, Outcome, build_report, read_outcome
from nas.sweep.progress_reporter import Teller
from nas.sweep.ray_cluster import Place, find_places, import_ray, open_connection
from nas.sweep.request import Sweep
from nas.sweep.result import SweepResult
from nas.sweep.row import Row, build_row
from nas.sweep.trial import run_cell

RAY = "ray"  # Ray's own folder in that of the sweep
RETRIES = 2  # after a worker's death
_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a search's paths are the person's
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the searches' own folders say more
    "TUNE_MAX_PENDING_TRIALS_PG": "8",  # a trial that waits for a device must not hold back the others
    "RAY_AIR_NEW_OUTPUT": "0",  # the other one prints a table to stdout at any verbosity
}


def run_sweep(sweep: Sweep, progress: Progress) -> SweepResult:
    """Run what has not ended yet; the sweep's folder is complete when it returns.

    Raises:
        MissingExtra: Ray is not installed.
        ExecutionError: the cluster cannot be reached.
        UsageError: no node of it has so many CPUs.
        KeyboardInterrupt: the person stopped it; what has ended stays, and the rest goes on with `--resume`.
    """
    died: dict[str, str] = {}
    if any(read_outcome(sweep.get_folder(cell)) is None for cell in sweep.cells):
        import_ray()
        teller = Teller(sweep, progress)
        with open_connection(), _silence_ray(), teller.listen(), _handle_stop():
            _build_tuner(sweep).fit()
        died = teller.died
    return SweepResult(sweep, tuple(_build_rows(sweep, died)))


def _build_rows(sweep: Sweep, died: dict[str, str]) -> Iterator[Row]:
    """A row for every cell; of one whose workers died nothing is kept, so that a resumed sweep tries it again."""
    pilots = list_pilots(sweep.cells)
    for cell in sweep.cells:
        outcome = read_outcome(sweep.get_folder(cell))
        if outcome is None and cell.name not in died:
            raise KeyboardInterrupt
        outcome = outcome or Outcome("failed", 0.0, died[cell.name])
        yield build_row(cell, sweep.get_folder(cell), outcome, cell in pilots)


def _build_tuner(sweep: Sweep) -> Any:
    """A new tuner, or the one that an earlier driver left."""
    from ray import tune

    places = find_places(tuple({cell.target: 0 for cell in sweep.cells}), sweep.cpus)
    trainable = tune.with_resources(_build_trainable(sweep, places), _build_resources(places))
    folder = str(sweep.out / RAY)
    if tune.Tuner.can_restore(folder):
        return tune.Tuner.restore(folder, trainable, resume_errored=True)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_build_searcher(sweep), num_samples=-1, max_concurrent_trials=sweep.concurrent,
            reuse_actors=True,
            trial_dirname_creator=_name_trial,
        ),
        run_config=tune.RunConfig(
            name=RAY, storage_path=str(sweep.out), verbose=0, callbacks=[Teller.build_callback()],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )  # fmt: skip


def _name_trial(trial: Any) -> str:
    """Ray's own folder of a trial; by default its name has all params, paths too."""
    return str(trial.trial_id)


def _build_searcher(sweep: Sweep) -> Any:
    from optuna.distributions import CategoricalDistribution

    from nas.sweep.searcher import StudySearcher

    names = ("model", "target", "budget", "seed")
    space = {name: CategoricalDistribution(tuple({c.params[name]: 0 for c in sweep.cells})) for name in names}
    return StudySearcher(
        *sweep.study, space, LOSS, constraints=[OVER_MS], kept=[CELL, REASON], queue=PilotsFirst(sweep.cells)
    )


def _build_trainable(sweep: Sweep, places: dict[str, Place]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What a worker runs: the search of the cell that the params name."""
    folders = {cell.name: sweep.get_folder(cell) for cell in sweep.cells}
    names = {tuple(cell.params.items()): cell.name for cell in sweep.cells}

    def cell(config: dict[str, Any]) -> dict[str, Any]:  # by this name Ray restores an interrupted sweep
        name = names[tuple((key, config[key]) for key in ("model", "target", "budget", "seed"))]
        return {CELL: name, **build_report(folders[name], run_cell(folders[name], places[config["target"]].device))}

    return cell


def _build_resources(places: dict[str, Place]) -> Callable[[dict[str, Any]], Any]:
    from ray.tune import PlacementGroupFactory

    return lambda config: PlacementGroupFactory([places[config["target"]].bundle])


@contextmanager
def _silence_ray() -> Iterator[None]:
    """Ray's own words stay away, and off stdout; what matters is told by ours."""
    os.environ.update(_SETTINGS)
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _handle_stop() -> Iterator[None]:
    """Tune saves its state and ends at SIGINT; at SIGTERM, by which clusters stop a job, it does the same."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
