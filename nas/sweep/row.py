"""One line of a sweep's table: what a cell's search found, or why it found nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latency_models.targets import find_target
from nas.quality.metrics import METRICS
from nas.sweep.cell import Cell
from nas.sweep.outcome import Outcome, get_reached_ms, read_result

# Metrics that say the same of every model, where the data is the same; the others compare a model with its own parent.


@dataclass(frozen=True)
class Score:
    """A quality that may be set beside another.

    Attributes:
        metric: `accuracy` or `perplexity` where there is one, else the metric that the search reports.
        absolute: whether it means the same for models of different parents.
        items: of the test split.
    """

    metric: str
    value: float
    higher_is_better: bool
    absolute: bool
    items: int


@dataclass(frozen=True)
class Model:
    """One model on the target: the parent, or what was cut out of it. `ms` is measured where it was, else predicted.

    Example:
        >>> parent = Model(20.0, 19.5, 20.0, 4_000_000, Score("perplexity", 3.1, False, True, 48))
    """

    ms: float
    predicted_ms: float
    measured_ms: float | None
    parameters: int
    score: Score


@dataclass(frozen=True)
class Row:
    """One cell. Where there is no winner, `budget_ms`, `parent` and `winner` may be None and `reason` says why.

    Attributes:
        target: the full name; the cell has it as the person gave it.
        data: the digest of the test split; empty where the result does not tell.
        pilot: whether it was the first of its model, which the others waited for.

    Example:
        >>> reasons = {row.cell.name: row.outcome.reason for row in run_sweep(sweep, progress).rows}
    """

    cell: Cell
    folder: Path
    pilot: bool
    target: str
    outcome: Outcome
    workload: str = ""
    data: str = ""
    budget_ms: float | None = None
    parent: Model | None = None
    winner: Model | None = None
    certified: bool = False
    evaluations: int = 0
    run_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON form; ms at the searches' percentile."""
        return {
            **self.cell.params,
            "target_name": self.target,
            "workload": self.workload,
            "state": self.outcome.state,
            "reason": self.outcome.reason,
            "budget_ms": self.budget_ms,
            "closest_ms": self.outcome.closest_ms,
            "parent_ms": self.parent and self.parent.ms,
            "parent": self.parent and _encode_model(self.parent),
            "winner": self.winner and {**_encode_model(self.winner), "certified": self.certified},
            "data": self.data,
            "seconds": round(self.outcome.seconds, 1),
            "pilot": self.pilot,
            "evaluations": self.evaluations,
            "folder": str(self.folder),
            "run_id": self.run_id,
        }


def build_row(cell: Cell, folder: Path, outcome: Outcome, pilot: bool) -> Row:
    """The row of a cell that has ended."""
    target = find_target(cell.target).name
    result = read_result(folder) if outcome.state == "winner" else None
    if result is None:
        return Row(cell, folder, pilot, target, outcome, budget_ms=outcome.budget_ms)
    return Row(
        cell, folder, pilot, target, outcome,
        workload=result["workload"], data=result["model"].get("data", {}).get("test", ""),
        budget_ms=result["budget_ms"],
        parent=_read_model(result["parent"], result["model"]["parameters"]),
        winner=_read_model(result["winner"], result["winner"]["parameters"]),
        certified=result["winner"]["certified"], evaluations=result["search"]["evaluations"],
        run_id=result["mlflow"].get("run_id"),
    )  # fmt: skip


def _read_model(entry: dict[str, Any], parameters: int) -> Model:
    score = _read_score(entry["quality"])
    return Model(get_reached_ms(entry), entry["predicted_ms"], entry["measured_ms"], parameters, score)


def _read_score(quality: dict[str, Any]) -> Score:
    """The absolute metric of a quality, the headline or one beside it; else the headline."""
    for metric in (metric for metric in METRICS.values() if metric.absolute):
        value = quality["value"] if quality["metric"] == metric.name else quality.get(metric.name)
        if value is not None:
            return Score(metric.name, value, metric.higher_is_better, True, quality["items"])
    return Score(quality["metric"], quality["value"], quality["higher_is_better"], False, quality["items"])


def _encode_model(model: Model) -> dict[str, Any]:
    score = model.score
    return {
        "predicted_ms": model.predicted_ms,
        "measured_ms": model.measured_ms,
        "parameters": model.parameters,
        "metric": score.metric,
        "value": score.value,
        "higher_is_better": score.higher_is_better,
        "comparable_across_models": score.absolute,
        "items": score.items,
    }
