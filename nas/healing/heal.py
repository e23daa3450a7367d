"""Healing the winner of a search: trained on the calibration split to give what its parent gives, then delivered."""

import json
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latency_models.workload import Phase
from nas.data.dataset import Split
from nas.export.exporters import EXPORTERS
from nas.export.onnx_export import build_file_name
from nas.export.parity import check_parity
from nas.healing.card import write_card
from nas.healing.items import Items
from nas.healing.loss import HealingLoss, OutputLoss, find_output_loss
from nas.healing.recipe import Recipe
from nas.healing.record import Healed
from nas.healing.state import TrainingState, load_state
from nas.healing.train import Training, count_steps
from nas.healing.trainable import choose_trained
from nas.mlflow_model import write_mlmodel
from nas.parent.parent import ParentModel, compute_weights_digest, load_parent_model
from nas.progress import Progress
from nas.quality.comparison import compare
from nas.quality.evaluator import Evaluator
from nas.quality.precision import Precision, choose_precision
from nas.quality.quality import Quality
from nas.request.choices import AUTO
from nas.request.search_request import SearchRequest
from nas.results.result import list_versions
from nas.storage.disk_errors import check_folder
from nas.storage.result_folder import lock_exclusively, read_result
from nas.tokens.space import build_candidate_evaluator
from pruning.anatomy.language_model import is_vision_language
from pruning.checkpoint import load, save
from pruning.checkpoint.stored_precision import remember_precision, round_as_stored
from pruning.checkpoint.weight_files import find_weights, read_headers, read_stored_dtypes
from search_spaces.architecture import Architecture
from search_spaces.errors import ModelError, UsageError

WINNER, HEALED, STATE = "winner", "healed", "training.pt"
WINDOWS = 4096  # of a language model's calibration text, at most: as much as is read of it
_TEST = "test"
_CARRIED = ("architecture.json", "compensation.json")  # of the winner's folder: what stays true of the healed model


def heal(folder: Path, asked: Recipe | None, progress: Progress) -> Healed:
    """Heal the winner in a result folder; what was begun there is continued, what is finished is not done again.

    Args:
        folder: of a finished search; the healed model is written to `healed` in it.
        asked: None for the recipe of what was begun there, or else the usual one.

    Raises:
        UsageError: no result there, the parent itself has won, or another recipe was begun or finished there.
        ModelError: the models are not those of the search, or of a kind that cannot be healed.
        ExportError: the healed model's file does not compute what the model does.
    """
    result = read_result(folder)
    check_folder(folder / HEALED, "RESULT_DIR")
    with lock_exclusively(folder):
        with progress.open_stage("loading the models"):
            patient = _load_patient(folder, result)
        finished = _find_finished(folder / HEALED, asked, patient)
        if finished is not None:
            progress.show_message(f"{folder / HEALED} is healed already; delete it to heal again")
            return finished
        return _Healing(folder, patient, asked, progress).run()


@dataclass(frozen=True)
class _Patient:
    """Who is healed, and who heals.

    Attributes:
        model: the winner, in float32.
        digest: of the winner's weights before anything is trained.
        result: the document of the search.
    """

    parent: ParentModel
    model: Any
    architecture: Architecture
    digest: str
    result: dict[str, Any]


def _load_patient(folder: Path, result: dict[str, Any]) -> _Patient:
    request, winner = SearchRequest.load(folder), folder / WINNER
    parent = load_parent_model(request.model, request.data, request.trust_remote_code)
    if is_vision_language(parent.model):
        raise ModelError(
            f"{parent.id} is a vision-language model, and these are not healed yet; heal language models, classifiers "
            "and models that give embeddings"
        )
    if parent.digest != result["model"]["hash"]:
        raise ModelError(
            f"{parent.id} has other weights than the parent of the search in {folder}; put those back, or search again"
        )
    try:
        architecture = Architecture.from_json(json.loads((winner / "architecture.json").read_text()))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{winner / 'architecture.json'} cannot be read ({error}); continue with: {request.resume_command}"
        ) from None
    if not architecture.choices:
        raise UsageError(f"the winner in {folder} is the parent itself, so nothing is to be healed; lower the budget")
    model = load(winner, torch.float32, request.trust_remote_code)
    remember_precision(model, read_stored_dtypes(read_headers(find_weights(winner))))
    return _Patient(parent, model, architecture, compute_weights_digest(model), result)


def _find_finished(folder: Path, asked: Recipe | None, patient: _Patient) -> Healed | None:
    """What was finished there of the same winner; what belongs to another one is done again.

    Raises:
        UsageError: it was done by another recipe.
    """
    done = Healed.load(folder)
    if done is None or (done.winner, done.parent) != (patient.digest, patient.parent.digest):
        return None
    if asked not in (None, done.recipe):
        raise UsageError(f"{folder} was healed already by another recipe; delete it to heal again")
    return done


@dataclass(frozen=True)
class _Healing:
    folder: Path
    patient: _Patient
    asked: Recipe | None
    progress: Progress
    _files: dict[str, float] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.folder / HEALED

    @cached_property
    def evaluator(self) -> Evaluator:
        return build_candidate_evaluator(self.patient.parent, self.patient.model, self.folder / WINNER)

    @cached_property
    def items(self) -> Split:
        """What is trained on: the calibration split; of a language model's plain text as much of it as is read."""
        parent, dataset = self.patient.parent, self.evaluator.dataset
        if dataset is parent.dataset and parent.is_language_model and set(dataset.calibration.inputs) == {"input_ids"}:
            return parent.load_more_calibration(WINDOWS)
        return dataset.calibration

    def run(self) -> Healed:
        """Train, judge, deliver."""
        patient, begun = self.patient, load_state(self.out / STATE)
        with self.progress.open_stage("reading the data"):
            outputs = find_output_loss(self.evaluator, patient.parent.model)
            data = {"digest": self.items.digest, "items": len(self.items)}
        self.progress.show_message(f"quality: {self.evaluator.words}")
        recipe = self._choose_recipe(begun, data)
        with self.progress.open_stage("evaluating on the test split"):
            before = self.evaluator.evaluate(patient.model, _TEST)
        training = self._build_training(recipe, outputs, data)
        original = {name: parameter.detach().clone() for name, parameter in training.trained.items()}
        state = training.run(self._begin(training, begun), self.progress)
        _round(patient.model, training.trained, original)
        patient.model.requires_grad_(False)
        with self.progress.open_stage("evaluating on the test split"):
            after = self.evaluator.evaluate(patient.model, _TEST)
        self._deliver()
        healed = self._record(recipe, state, data, before, after)
        unit = "images" if "pixel_values" in self.items.inputs else "text tokens"
        write_card(self.out, patient.parent.id, healed, unit)
        healed.save(self.out)
        (self.out / STATE).unlink(missing_ok=True)
        return healed

    def _build_training(self, recipe: Recipe, outputs: OutputLoss, data: dict[str, Any]) -> Training:
        patient, anatomy = self.patient, self.patient.parent.anatomy
        trained = choose_trained(patient.model, anatomy, patient.architecture, recipe.trained)
        parent = patient.parent.model.requires_grad_(False)
        return Training(
            trained=trained,
            loss=HealingLoss(
                parent, patient.model, anatomy, patient.architecture, outputs, recipe.hidden_weight, _choose_arithmetic
            ),
            evaluate=lambda: self.evaluator.evaluate(patient.model).loss,
            items=Items(self.items, recipe.seed),
            recipe=recipe,
            file=self.out / STATE,
            identity=self._build_identity(recipe, data),
        )

    def _build_identity(self, recipe: Recipe, data: dict[str, Any]) -> dict[str, Any]:
        winner, parent = self.patient.digest, self.patient.parent.digest
        return {"recipe": recipe.to_json(), "winner": winner, "parent": parent, "data": data}

    def _choose_recipe(self, begun: tuple[dict[str, Any], TrainingState] | None, data: dict[str, Any]) -> Recipe:
        """What was asked for, else what was begun.

        Raises:
            UsageError: something else was begun.
        """
        if begun is None:
            return self.asked or Recipe()
        recipe = self.asked or Recipe(**begun[0]["recipe"])
        if begun[0] != self._build_identity(recipe, data):
            raise UsageError(
                f"{self.out / STATE} is of another recipe, winner or data; continue it as it was begun, without "
                "options, or delete it"
            )
        return recipe

    def _begin(self, training: Training, begun: tuple[dict[str, Any], TrainingState] | None) -> TrainingState:
        """Where training begins or goes on."""
        if begun is not None:
            self.progress.show_message(f"healing goes on at step {begun[1].done} of {begun[1].steps}")
            return begun[1]
        if training.recipe.steps is not None:
            return TrainingState(training.recipe.steps)
        assert training.recipe.minutes is not None, "a recipe has the one or the other"
        with self.progress.open_stage("timing a step"):
            steps = count_steps(training, training.recipe.minutes)
        self.progress.show_message(f"{training.recipe.minutes:g} minutes are about {steps} steps here")
        return TrainingState(steps)

    def _deliver(self) -> None:
        """The folder that the winner has, of the healed model: its files are exported anew and compared with it."""
        model, winner = self.patient.model, self.folder / WINNER
        with self.progress.open_stage("writing the healed model"):
            save(model, self.out, companions=winner)
            for name in _CARRIED:
                (self.out / name).unlink(missing_ok=True)
                if (winner / name).exists():
                    shutil.copyfile(winner / name, self.out / name)
            write_mlmodel(self.out)
        for phase in Phase:
            for exporter in EXPORTERS.values():
                name = exporter.name_file(build_file_name(phase))
                if (winner / name).exists():
                    with self.progress.open_stage(f"exporting {name}"):
                        exporter.export(model, self.out / name, phase)
                        self._files[name] = check_parity(model, self.out / name, phase)

    def _record(
        self, recipe: Recipe, state: TrainingState, data: dict[str, Any], before: Quality, after: Quality
    ) -> Healed:
        winner = self.patient.result["winner"]
        adjusted = winner.get("as_dropped") is not None
        return Healed(
            as_dropped=Quality.from_json(winner["as_dropped"]) if adjusted else before,
            compensated=before if adjusted else None,
            healed=after,
            comparison=compare(after, before, "compensated" if adjusted else "as dropped").to_json(),
            history=tuple(state.history),
            best_step=state.best_step,
            steps=state.done,
            planned_steps=state.steps,
            tokens_seen=state.tokens,
            seconds=round(state.seconds, 1),
            recipe=recipe,
            data=data,
            parent=self.patient.parent.digest,
            winner=self.patient.digest,
            files=self._files,
            versions=list_versions(),
        )


@torch.no_grad()
def _round(model: Any, trained: dict[str, nn.Parameter], original: dict[str, Tensor]) -> None:
    """Round what was trained to what the winner's files hold, so that the folder is as large and nothing is lost."""
    for name, parameter in trained.items():
        parameter.copy_(round_as_stored(model, parameter, original[name]))


def _choose_arithmetic() -> AbstractContextManager[Any]:
    """Bf16 products where the processor has them."""
    if choose_precision(AUTO) is Precision.FP32:
        return nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)
