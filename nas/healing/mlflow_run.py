"""A healing of a search's winner as what MLflow is given: a run with its curves."""

from pathlib import Path
from typing import Any

from nas.healing.curves import build_curves
from nas.healing.record import FILE, Healed
from nas.healing.state import TrainingState
from nas.tracking import SearchRun


def build_healing_run(healed: Healed, state: TrainingState, result: dict[str, Any], folder: Path) -> SearchRun:
    """What of a healing is logged.

    Args:
        result: the document of the search.
        folder: of the healed model.
    """
    quality, recipe = healed.healed, healed.recipe
    asked = {"trained": recipe.trained, "learning_rate": recipe.learning_rate, "seed": recipe.seed}
    metrics = {quality.metric: quality.value, **quality.others, "loss": quality.loss, "items": float(quality.items)}
    search = result.get("mlflow", {}).get("run_id")
    return SearchRun(
        result["model"]["id"], result["target"]["name"], f"{result['budget_ms']:.2f}ms",
        f"The winner of a search, trained for {healed.steps} steps. Metrics are of the test split.",
        {**asked, "steps": healed.steps, "best_step": healed.best_step, "tokens_seen": healed.tokens_seen},
        metrics, (), [folder / FILE], {}, {"calibration": healed.data["digest"]},
        tags={"nas.search_run": search} if search else {}, curves=build_curves(state), verb="heal",
    )  # fmt: skip
