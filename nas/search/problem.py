"""What is searched, for what, with how much effort."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from latency_models.model import LatencyModel
from nas.quality.quality import Quality
from search_spaces.architecture import Architecture
from search_spaces.space import Space
from search_spaces.unit import Unit

Evaluate = Callable[[Architecture, int | None], Quality]


def _silent(trial: int, note: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Problem:
    """One search.

    Attributes:
        evaluate: the validation quality of an architecture on the first items, or on all with None.
        latency: predicts ms; `percentile` is the one that must meet `budget_ms`.
        rankings: name of a one-shot method to units, most redundant first.
        fidelity: validation items of an ordinary trial; the best are judged on all.
        storage: URL of the study's database.
        library: file of the score library; `content` names weights, data and metric.
        on_trial: told the trial's number and the best so far.
    """

    space: Space
    evaluate: Evaluate
    latency: LatencyModel
    budget_ms: float
    percentile: int
    rankings: dict[str, tuple[Unit, ...]]
    fidelity: int | None
    storage: str
    library: Path
    content: str
    study: str = "nas"
    trials: int = 48
    time_limit_s: float | None = None
    seed: int = 0
    finalists: int = 6
    on_trial: Callable[[int, str], None] = _silent

    def ms(self, architecture: Architecture) -> float:
        """Predicted latency at the asked percentile."""
        return self.latency.predict(architecture, self.percentile).ms

    def feasible(self, architecture: Architecture) -> bool:
        """Whether the prediction meets the budget."""
        return self.ms(architecture) <= self.budget_ms

    def saves_ms(self) -> dict[Unit, float]:
        """What dropping each unit alone saves, as an additive estimate at the asked percentile."""
        parent = self.space.parent
        tail = self.ms(parent) / self.latency.predict(parent, 50).ms  # unit_ms is a median
        return {unit: tail * self.latency.unit_ms(unit) for unit in self.space.units}
