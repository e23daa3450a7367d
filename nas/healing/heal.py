"""Healing the winner of a search: trained on the calibration split to give what its parent gives, then delivered."""

import shutil
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from latency_models.workload import Phase
from nas.export.exporters import EXPORTERS
from nas.export.onnx_export import build_file_name
from nas.export.parity import check_parity
from nas.healing.card import write_card
from nas.healing.mlflow_run import build_healing_run
from nas.healing.processes import run_on_every_device
from nas.healing.recipe import Recipe
from nas.healing.record import Healed
from nas.healing.state import TrainingState, load_state
from nas.healing.student import Student
from nas.healing.train import Training, measure_pace
from nas.healing.winner import Winner, load_winner
from nas.mlflow_model import write_mlmodel
from nas.progress import Progress
from nas.quality.comparison import compare
from nas.quality.quality import Quality
from nas.request.search_request import SearchRequest
from nas.results.result import list_versions
from nas.storage.disk_errors import check_folder
from nas.storage.result_folder import lock_exclusively, read_result
from nas.tracking import get_tracking_uri, log_search
from pruning.checkpoint import save
from search_spaces.errors import UsageError

HEALED, STATE = "healed", "training.pt"
_TEST = "test"
# Of the winner's folder: what stays true of the healed model.
_CARRIED = ("architecture.json", "channels.json", "compensation.json")


def heal(folder: Path, asked: Recipe | None, progress: Progress) -> Healed:
    """Heal the winner in a result folder; what was begun there is continued, what is finished is not done again.

    Args:
        folder: of a finished search; the healed model is written to `healed` in it.
        asked: None for the recipe of what was begun there, or else the usual one.

    Raises:
        UsageError: no result there, the parent itself has won, or another recipe was begun or finished there.
        ModelError: the models are not those of the search, or of a kind that cannot be healed.
        MissingExtra: a package that training takes is not installed.
        ExportError: the healed model's file does not compute what the model does.
    """
    result = read_result(folder)
    check_folder(folder / HEALED, "RESULT_DIR")
    with lock_exclusively(folder):
        with progress.open_stage("loading the models"):
            winner = load_winner(folder, result)
        finished = _find_finished(folder / HEALED, asked, winner)
        if finished is not None:
            progress.show_message(f"{folder / HEALED} is healed already; delete it to heal again")
            return finished
        return _Healing(folder / HEALED, winner, asked, progress).run()


def _find_finished(folder: Path, asked: Recipe | None, winner: Winner) -> Healed | None:
    """What was finished there of the same winner; what belongs to another one is done again.

    Raises:
        UsageError: it was done by another recipe.
    """
    done = Healed.load(folder)
    if done is None or (done.winner, done.parent) != (winner.digest, winner.parent.digest):
        return None
    if asked not in (None, done.recipe):
        raise UsageError(f"{folder} was healed already by another recipe; delete it to heal again")
    return done


@dataclass(frozen=True)
class _Healing:
    out: Path
    winner: Winner
    asked: Recipe | None
    progress: Progress
    _files: dict[str, float] = field(default_factory=dict)

    @cached_property
    def begun(self) -> tuple[dict[str, Any], TrainingState] | None:
        """What an earlier process left, and of what."""
        return load_state(self.out / STATE)

    @cached_property
    def recipe(self) -> Recipe:
        """What was asked for, else what was begun, else the usual one."""
        return self.asked or (Recipe() if self.begun is None else Recipe(**self.begun[0]["recipe"]))

    @cached_property
    def student(self) -> Student:
        with self.progress.open_stage("reading the data"):
            return self.winner.build_student(self.recipe)

    def run(self) -> Healed:
        """Train, judge, deliver.

        Raises:
            UsageError: something else was begun.
        """
        evaluator, identity = self.student.evaluator, self._build_identity()
        self.progress.show_message(f"quality: {evaluator.words}")
        if self.begun is not None and self.begun[0] != identity:
            raise UsageError(
                f"{self.out / STATE} is of another recipe, winner or data; continue it as it was begun, without "
                "options, or delete it"
            )
        training = self.student.build_training(self.recipe, self.out / STATE, identity)
        with self.progress.open_stage("evaluating on the test split"):
            before = evaluator.evaluate(self.winner.model, _TEST)
        state = run_on_every_device(self.student, training, self._begin(training), self.progress)
        model = training.weights.finish()
        with self.progress.open_stage("evaluating on the test split"):
            after = evaluator.evaluate(model, _TEST)
        self._deliver(model)
        healed = self._record(state, before, after)
        unit = "images" if "pixel_values" in self.student.training_data.items.inputs else "text tokens"
        write_card(self.out, self.winner.parent.id, healed, unit)
        healed.save(self.out)
        healed = replace(healed, mlflow=self._log(healed, state))
        healed.save(self.out)
        (self.out / STATE).unlink(missing_ok=True)
        return healed

    def _log(self, healed: Healed, state: TrainingState) -> dict[str, Any]:
        """Log the curves where the search was logged; what cannot be sent is kept in the folder for `nas track`."""
        folder = self.out.parent
        uri = get_tracking_uri(SearchRequest.load(folder).tracking_uri, folder)
        with self.progress.open_stage("recording in MLflow"):
            logged = log_search(build_healing_run(healed, state, self.winner.result, self.out), uri, self.out)
        if "problem" in logged:
            self.progress.show_message(logged["problem"])
        return logged

    def _build_identity(self) -> dict[str, Any]:
        winner, parent = self.winner.digest, self.winner.parent.digest
        return {
            "recipe": self.recipe.to_json(),
            "winner": winner,
            "parent": parent,
            "data": self.student.training_data.data,
        }

    def _begin(self, training: Training) -> TrainingState:
        """Where training begins or goes on."""
        recipe = self.recipe
        if self.begun is not None:
            state = self.begun[1]
            self.progress.show_message(f"healing goes on at step {state.done} of {state.steps}")
            return state
        if recipe.steps is not None:
            return TrainingState(recipe.steps)
        assert recipe.minutes is not None, "a recipe has the one or the other"
        with self.progress.open_stage("timing a step"):
            steps = measure_pace(training).count_steps(60 * recipe.minutes, recipe.evaluate_every)
        self.progress.show_message(f"{recipe.minutes:g} minutes are about {steps} steps here")
        return TrainingState(steps)

    def _deliver(self, model: Any) -> None:
        """The folder that the winner has, of the healed model: its files are exported anew and compared with it."""
        winner = self.winner.folder
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

    def _record(self, state: TrainingState, before: Quality, after: Quality) -> Healed:
        as_dropped, compensated, name = _read_before(self.winner.result["winner"], before)
        return Healed(
            as_dropped=as_dropped,
            compensated=compensated,
            healed=after,
            comparison=compare(after, before, name).to_json(),
            history=tuple(state.history),
            best_step=state.best_step,
            steps=state.done,
            planned_steps=state.steps,
            tokens_seen=state.tokens,
            seconds=round(state.seconds, 1),
            recipe=self.recipe,
            data=self.student.training_data.data,
            parent=self.winner.parent.digest,
            winner=self.winner.digest,
            files=self._files,
            versions=list_versions(),
        )


def _read_before(winner: dict[str, Any], now: Quality) -> tuple[Quality, Quality | None, str]:
    """The winner as dropped and compensated, and a name for what it is now.

    Args:
        winner: of the search's result.
        now: its quality before this healing.
    """
    dropped, compensated = (
        None if winner.get(name) is None else Quality.from_json(winner[name]) for name in ("as_dropped", "compensated")
    )
    if winner.get("healing"):
        return dropped or now, compensated, "healed by the search"
    return (now, None, "as dropped") if dropped is None else (dropped, now, "compensated")
