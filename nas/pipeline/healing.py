"""Healing in a search: its finalists by successive halving, the best of them in the winner's place."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from nas.certification.search_context import SearchContext
from nas.certification.trained import TrainedCandidate
from nas.execution.cluster import RayExecutor
from nas.healing.devices import check_installed
from nas.healing.local_trainer import LocalTrainer
from nas.healing.outputs import find_output_loss
from nas.healing.ray_trainer import RayTrainer
from nas.healing.recipe import Recipe
from nas.healing.state_files import StateFiles
from nas.healing.student import Student, TrainingData, choose_training_data
from nas.healing.tournament import Standing, Tournament, Trainer
from nas.healing.tournament_record import TournamentRecord
from nas.healing.trainable import NO_ADAPTERS
from nas.pipeline.finalists import choose_finalists
from nas.progress import Progress
from nas.request.choices import FULL, LORA
from nas.request.search_request import SearchRequest
from nas.search import Candidate, Problem, SearchOutcome
from nas.search.outcome import evaluate_in_full
from pruning.kinds.quantised_part import AXIS
from search_spaces.architecture import Architecture
from search_spaces.errors import UsageError
from search_spaces.kinds import KINDS

FOLDER = "healing"  # of a result folder


def check_healing(request: SearchRequest) -> None:
    """Find out before anything is loaded whether what was asked for can be done.

    Raises:
        MissingExtra: a package is not installed.
        UsageError: low-rank adapters, and weights may have fewer bits.
    """
    if request.heal_s is None:
        return
    check_installed(request.heal_train)
    fewer_bits = request.precision != FULL or any(KINDS[name].axis == AXIS for name in request.units)
    if fewer_bits and request.heal_train == LORA:
        raise UsageError(f"--heal-train {NO_ADAPTERS}, or take --precision {FULL}")


@dataclass
class FinalistHealing:
    """Trains the finalists of a search.

    Attributes:
        finalists: who they are, best first as the search judged them; known once they are trained.
        standing: what their training came to; None before, and where there was none to train.
    """

    context: SearchContext
    seconds: float
    progress: Progress
    finalists: tuple[Candidate, ...] = ()
    standing: Standing | None = None
    _built: dict[Architecture, Any] = field(default_factory=dict, init=False)

    def check(self) -> None:
        """Find out before the search whether its finalists can be trained.

        Raises:
            ModelError: a parent whose outputs have no training loss.
        """
        find_output_loss(self.context.cached_evaluator.evaluator, self.context.parent.model)

    def train(self, problem: Problem, outcome: SearchOutcome) -> list[TrainedCandidate]:
        """The finalists after training, the lowest validation loss first; what was begun earlier is continued."""
        self.finalists = choose_finalists(problem, outcome)
        if not self.finalists:
            self.progress.show_message("the winner is the parent itself, so nothing is healed")
            return []
        record = self._open_record(problem, outcome)
        with self.progress.open_stage("reading the data"):
            trainer = self._open_trainer(record.architectures)
        self.standing = Tournament(record, self._folder, self.seconds, trainer, self.progress).run()
        return [self._build_trained(member) for member in self.standing.order]

    def build(self, architecture: Architecture) -> Any:
        """A finalist with its best weights; one object however often it is asked for."""
        if architecture not in self._built:
            assert self.standing is not None, "it was trained"
            member = [each.architecture for each in self.finalists].index(architecture)
            student = self._build_student(architecture)
            training = student.build_training(self.recipe, self._folder / "unused", {})
            training.weights.set(self.standing.states[member].best)
            self._built = {architecture: training.weights.finish()}
        return self._built[architecture]

    @cached_property
    def recipe(self) -> Recipe:
        """How finalists are trained."""
        request = self.context.request
        return Recipe(minutes=self.seconds / 60, trained=request.heal_train, seed=request.seed, device=request.device)

    @cached_property
    def training_data(self) -> TrainingData:
        """What finalists are trained on."""
        architectures = [each.architecture for each in self.finalists]
        evaluator = self.context.cached_evaluator.evaluator
        return choose_training_data(self.context.parent, evaluator, architectures, self.recipe)

    @property
    def _folder(self) -> Any:
        return self.context.request.out / FOLDER

    def _open_record(self, problem: Problem, outcome: SearchOutcome) -> TournamentRecord:
        """The tournament that was begun here, if it is this one; else a new one.

        Measuring again may choose others to train than it did at first; who was begun with stays.
        """
        identity, known = self._build_identity(), TournamentRecord.load(self._folder)
        new = TournamentRecord(identity, tuple(each.architecture for each in self.finalists))
        if known is None or known.identity != identity:
            return new
        found = {each.architecture: each for each in (*outcome.candidates, *self.finalists)}
        if self.context.device is None and known.architectures != new.architectures:
            return new
        if not all(architecture in found for architecture in known.architectures):
            return new
        candidates = [found[architecture] for architecture in known.architectures]
        self.finalists = tuple(evaluate_in_full(problem, candidates))
        return known

    def _build_identity(self) -> dict[str, Any]:
        context, plan = self.context, self.context.builder.plan
        return {
            "parent": context.parent.digest,
            "recipe": self.recipe.to_json(),
            "data": self.training_data.data,
            "compensation": "" if plan is None else plan.build_key(final=True),
            "measured": context.device is not None,
            "budget": context.request.budget.text,
        }

    def _open_trainer(self, architectures: tuple[Architecture, ...]) -> Trainer:
        files = StateFiles(self._folder, self._build_identity(), architectures)
        executor = self.context.cached_evaluator.executor
        if isinstance(executor, RayExecutor):
            return RayTrainer(files, self.training_data, self.recipe, executor, self.progress)

        def build_student(member: int) -> Student:
            return self._build_student(architectures[member])

        return LocalTrainer(files, build_student, self.recipe, self.progress)

    def _build_student(self, architecture: Architecture) -> Student:
        context = self.context
        model = context.builder.build(architecture)
        return Student(
            context.parent.placed,
            context.parent.anatomy,
            model,
            architecture,
            context.cached_evaluator.evaluator,
            self.training_data,
        )

    def _build_trained(self, member: int) -> TrainedCandidate:
        assert self.standing is not None, "it was trained"
        candidate = self.finalists[member]
        quality = replace(candidate.quality, loss=self.standing.states[member].best_loss)
        build: Callable[[], Any] = partial(self.build, candidate.architecture)
        return TrainedCandidate(replace(candidate, quality=quality), build)
