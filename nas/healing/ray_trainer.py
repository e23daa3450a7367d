"""Training finalists on the workers of a Ray cluster, one finalist a worker."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.execution.cluster import RayExecutor
from nas.execution.worker import Worker
from nas.healing.recipe import Recipe
from nas.healing.state import TrainingState
from nas.healing.state_files import StateFiles
from nas.healing.student import Student, TrainingData
from nas.healing.tournament import Leg
from nas.healing.train import Training, measure_pace
from nas.progress import Progress, Silent
from search_spaces.architecture import Architecture


@dataclass(frozen=True)
class RayTrainer:
    """Finalists that are trained side by side by those who evaluated them; states come back at the end of a leg.

    Attributes:
        files: of the states, on this machine.
        training_data: what finalists are trained on.
        recipe: of the training.
        executor: of the workers.
    """

    files: StateFiles
    training_data: TrainingData
    recipe: Recipe
    executor: RayExecutor
    progress: Progress

    def restore(self, member: int) -> TrainingState:
        """A finalist's state as it was kept last; else one that begins."""
        return self.files.restore(member)

    def keep(self, member: int, state: TrainingState) -> None:
        """Write a finalist's state."""
        self.files.keep(member, state)

    def measure_step(self) -> float:
        """Seconds that a step of the first finalist takes on a worker."""
        calls = self.executor.call(_measure_step, [(self.files.architectures[0], self.training_data, self.recipe)])
        return float(next(seconds for _, seconds in calls))

    def run(self, legs: Sequence[Leg]) -> list[TrainingState]:
        """Train each, and keep its state."""
        given = [(self.files.architectures[leg.member], self.training_data, self.recipe, leg) for leg in legs]
        ended: dict[int, TrainingState] = {}
        with self.progress.open_stage("healing", total=len(legs)) as stage:
            for place, state in self.executor.call(_train, given):
                self.keep(legs[place].member, state)
                ended[place] = state
                stage.advance(1, f"finalist {legs[place].member + 1}: best {state.best_loss:.4f}")
        return [ended[place] for place in range(len(legs))]


def _measure_step(worker: Worker, architecture: Architecture, training_data: TrainingData, recipe: Recipe) -> float:
    with tempfile.TemporaryDirectory(prefix="nas-") as name:
        return measure_pace(_build_training(worker, architecture, training_data, recipe, Path(name))).step


def _train(
    worker: Worker, architecture: Architecture, training_data: TrainingData, recipe: Recipe, leg: Leg
) -> TrainingState:
    with tempfile.TemporaryDirectory(prefix="nas-") as name:
        training = _build_training(worker, architecture, training_data, recipe, Path(name))
        return training.run(leg.state, Silent(), leg.until, leg.limit_s)


def _build_training(
    worker: Worker, architecture: Architecture, training_data: TrainingData, recipe: Recipe, folder: Path
) -> Training:
    bench, model = worker.bench, worker.builder.build(architecture)
    student = Student(bench.parent, bench.anatomy, model, architecture, bench.evaluator, training_data)
    return student.build_training(recipe, folder / "state.pt", {})
