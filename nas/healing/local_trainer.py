"""Training finalists on this machine, one after another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from nas.healing.devices import open_accelerator
from nas.healing.loss import list_watched_layers
from nas.healing.processes import run_on_every_device
from nas.healing.recipe import Recipe
from nas.healing.state import TrainingState
from nas.healing.state_files import StateFiles
from nas.healing.student import Student
from nas.healing.teacher import Teacher
from nas.healing.tournament import Leg
from nas.healing.train import Training, measure_pace
from nas.progress import Progress


@dataclass
class LocalTrainer:
    """Finalists that learn from one teacher, so that the parent runs once for all of them.

    Attributes:
        files: of the states.
        build_student: a finalist by its number, as it is before training.
        recipe: of the training.
    """

    files: StateFiles
    build_student: Callable[[int], Student]
    recipe: Recipe
    progress: Progress
    _students: dict[int, Student] = field(default_factory=dict, init=False)
    _trainings: dict[int, Training] = field(default_factory=dict, init=False)

    def restore(self, member: int) -> TrainingState:
        """A finalist's state as it was kept last; else one that begins."""
        return self.files.restore(member)

    def keep(self, member: int, state: TrainingState) -> None:
        """Write a finalist's state."""
        self.files.keep(member, state)

    def measure_step(self) -> float:
        """Seconds that a step of the first finalist takes."""
        return measure_pace(self._get_training(0)).step

    def run(self, legs: Sequence[Leg]) -> list[TrainingState]:
        """Train each; those that are not among them are forgotten."""
        for member in set(self._trainings) - {leg.member for leg in legs}:
            del self._trainings[member], self._students[member]
        return [self._run(leg) for leg in legs]

    def _run(self, leg: Leg) -> TrainingState:
        training = self._get_training(leg.member)
        return run_on_every_device(
            self._students[leg.member], training, leg.state, self.progress, leg.until, leg.limit_s
        )

    def _get_training(self, member: int) -> Training:
        if member not in self._trainings:
            student = self._students[member] = self.build_student(member)
            self._trainings[member] = student.build_training(
                self.recipe, self.files.get_path(member), self.files.build_identity(member), self._teacher
            )
        return self._trainings[member]

    @cached_property
    def _teacher(self) -> Teacher:
        student = self._students[min(self._students)]
        watched = (list_watched_layers(student.anatomy, each) for each in self.files.architectures)
        return student.build_teacher(open_accelerator(self.recipe), frozenset().union(*watched))
