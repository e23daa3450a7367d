"""A pruned model that is to be healed, with all that its training takes, so that it can be sent to another process."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.data.dataset import Split
from nas.healing.answers import append_answers, count_answer_tokens
from nas.healing.devices import check_installed, open_accelerator, place_copy, take_cpu_inputs
from nas.healing.items import Items
from nas.healing.loss import HealingLoss, list_watched_layers
from nas.healing.mixed_copies import add_mixed_copies, can_mix
from nas.healing.noisy_copies import add_noisy_copies
from nas.healing.outputs import find_output_loss
from nas.healing.recipe import Recipe
from nas.healing.teacher import Teacher
from nas.healing.train import Training
from nas.healing.trainable import choose_trained
from nas.parent.parent import ParentModel
from nas.quality.answers import AnswerEvaluator
from nas.quality.embedding import EmbeddingEvaluator
from nas.quality.evaluator import Evaluator
from nas.quality.language import LanguageEvaluator
from pruning.anatomy.anatomy import Anatomy
from pruning.inference.widening import copy_in_float32
from search_spaces.architecture import Architecture

if TYPE_CHECKING:
    from accelerate import Accelerator

WINDOWS = 4096  # of a language model's calibration text, at most: as much as is read of it


@dataclass(frozen=True)
class TrainingData:
    """What is trained on.

    Attributes:
        items: with the answers behind them where they are questions.
        answer_tokens: that an answer has at most, where they are behind the questions; else 1.
        data: digest and number of the items as they were read.
    """

    items: Split
    answer_tokens: int
    data: dict[str, Any]


def choose_training_data(
    parent: ParentModel, evaluator: Evaluator, architectures: Sequence[Architecture], recipe: Recipe
) -> TrainingData:
    """What the candidates of a parent are trained on: the calibration split that they are judged like.

    Of a language model's plain text it is as much of it as is read, with noisy copies where every token is judged.
    Texts to embed are mixed with each other.
    Questions have their answers behind them, unless a candidate drops tokens: which ones, the end of the question
    decides.
    """
    dataset = evaluator.dataset
    plain = dataset is parent.dataset and parent.is_language_model and set(dataset.calibration.inputs) == {"input_ids"}
    split = parent.load_more_calibration(WINDOWS) if plain else dataset.calibration
    data = {"digest": split.digest, "items": len(split)}
    if isinstance(evaluator, AnswerEvaluator) and not any(each.tokens.stages for each in architectures):
        return TrainingData(append_answers(split), count_answer_tokens(split), data)
    if isinstance(evaluator, EmbeddingEvaluator) and can_mix(split):
        split = add_mixed_copies(split, recipe.mixed, recipe.seed)
    if isinstance(evaluator, LanguageEvaluator):
        split = add_noisy_copies(parent.placed, split, recipe.copies, recipe.noise, recipe.seed)
    return TrainingData(split, 1, data)


@dataclass(frozen=True)
class Student:
    """A pruned model and its parent.

    Attributes:
        parent: in eval mode.
        anatomy: of the parent.
        model: pruned from it, in float32.
        architecture: of the model.
        evaluator: of the parent's candidates.
        training_data: what the model is trained on.
    """

    parent: Any
    anatomy: Anatomy
    model: Any
    architecture: Architecture
    evaluator: Evaluator
    training_data: TrainingData

    def build_teacher(self, accelerator: "Accelerator", layers: frozenset[int] | None = None) -> Teacher:
        """The parent as what others learn from.

        Args:
            layers: whose streams they are told; None for those of this model.

        Raises:
            ModelError: a parent whose outputs have no training loss.
        """
        layers = frozenset(list_watched_layers(self.anatomy, self.architecture)) if layers is None else layers
        outputs = find_output_loss(self.evaluator, self.parent, self.training_data.answer_tokens)
        parent = place_copy(self.parent.requires_grad_(False), accelerator.device)
        return Teacher(parent, self.anatomy, outputs, layers, accelerator.autocast)

    def build_training(
        self, recipe: Recipe, file: Path, identity: dict[str, Any], teacher: Teacher | None = None
    ) -> Training:
        """How the model is trained: in place where its weights are float32 on the CPU, else as a copy.

        Args:
            file: where the state is kept.
            identity: by which it is known again.
            teacher: of several students of one parent, on the same items; None for one of its own.

        Raises:
            ModelError: as `build_teacher`.
            MissingExtra: a package that training takes is not installed.
        """
        check_installed(recipe.trained)
        accelerator = open_accelerator(recipe)
        teacher = self.build_teacher(accelerator) if teacher is None else teacher
        model = place_copy(copy_in_float32(self.model), accelerator.device)
        weights = choose_trained(model, self.anatomy, self.architecture, recipe.trained, recipe.seed)
        loss = HealingLoss(teacher, model, self.anatomy, self.architecture, recipe.hidden_weight, accelerator.autocast)
        items = Items(self.training_data.items, recipe.seed, accelerator.process_index, accelerator.num_processes)

        def evaluate() -> float:
            with take_cpu_inputs(model, accelerator.device):
                return self.evaluator.evaluate(model).loss

        return Training(weights, loss, evaluate, items, recipe, file, identity, accelerator)
