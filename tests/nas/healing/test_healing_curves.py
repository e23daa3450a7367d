"""What is logged of a training: whole curves, also of one that could not be logged at once."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from healing_case import classifier
from mlflow.tracking import MlflowClient

from nas.healing.curves import POINTS, build_curves
from nas.healing.heal import heal
from nas.healing.recipe import Recipe
from nas.healing.state import TrainingState
from nas.progress import Silent
from nas.tracking import get_tracking_uri, send_pending
from nas.tracking.outbox import find_pending


def test_long_curves_are_thinned_evenly_and_end_with_the_last_step() -> None:
    state = TrainingState(2000, history=[(0, 0.5), (2000, 0.2)])
    state.losses = [(step, 1 / step, 1e-3) for step in range(1, 1602)]
    curves = build_curves(state)
    steps = [step for step, _ in curves["heal.training_loss"]]
    assert len(steps) <= POINTS
    assert {b - a for a, b in pairwise(steps)} == {4}
    assert steps[-1] == 1601
    assert curves["heal.validation_loss"] == [(0, 0.5), (2000, 0.2)]
    assert dict(curves["heal.learning_rate"])[1601] == 1e-3
    assert build_curves(TrainingState(5)) == {}


def logged(where: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """The curves of a run, as MLflow has them."""
    client = MlflowClient(where["tracking_uri"])
    run = client.get_run(where["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["nas.search_run"] == "of the search"
    assert run.data.tags["mlflow.runName"].startswith("heal · a-model · host")
    names = [name for name in run.data.metrics if name.startswith("heal.")]
    return {name: sorted((m.step, m.value) for m in client.get_metric_history(where["run_id"], name)) for name in names}


def test_training_and_validation_loss_and_learning_rate_are_logged_by_step(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    healed = heal(folder, Recipe(steps=4, evaluate_every=2, batch_items=2, accumulation=1), Silent())
    assert healed.mlflow["tracking_uri"] == get_tracking_uri(None, folder)
    curves = logged(healed.mlflow)
    assert curves["heal.validation_loss"] == [(step, pytest.approx(loss)) for step, loss in healed.history]
    assert [step for step, _ in curves["heal.training_loss"]] == [1, 2, 3, 4]
    rates = [healed.recipe.compute_rate(step, 4) for step in range(4)]
    assert [rate for _, rate in curves["heal.learning_rate"]] == pytest.approx(rates)


def test_what_could_not_be_logged_is_sent_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = classifier(tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        healed = heal(folder, Recipe(steps=2, evaluate_every=1, batch_items=2, accumulation=1), Silent())
    assert healed.mlflow["run_id"] is None
    assert "nas track" in healed.mlflow["problem"]
    sent = send_pending(folder / "healed", get_tracking_uri(None, folder))
    assert sent is not None
    assert [step for step, _ in logged(sent)["heal.validation_loss"]] == [0, 1, 2]
    assert find_pending(folder / "healed") is None
