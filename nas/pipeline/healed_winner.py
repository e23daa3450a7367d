"""The winner of a search whose finalists were trained, as it is reported."""

from dataclasses import dataclass, replace
from typing import Any

from nas.healing.curves import build_curves
from nas.pipeline.healing import FinalistHealing
from nas.pipeline.held_out import TEST
from nas.quality.quality import Quality
from nas.search import SearchOutcome
from nas.tracking.record import Curves
from search_spaces.architecture import Architecture


@dataclass(frozen=True)
class HealedWinner:
    """A winner with trained weights.

    Attributes:
        model: rounded to the dtype of the parent's files.
        validated, tested: its quality on the validation and on the test split.
        summary: how it was trained, for the result.
        curves: of all finalists.
    """

    model: Any
    validated: Quality
    tested: Quality
    summary: dict[str, Any]
    curves: dict[Architecture, Curves]

    def lead(self, outcome: SearchOutcome) -> SearchOutcome:
        """The outcome whose winner has the quality of this one."""
        return outcome.lead_with(replace(outcome.winner, quality=self.validated, full=True))


def judge_healed(healing: FinalistHealing, winner: Architecture) -> HealedWinner | None:
    """The winner as it was trained, judged; None where nothing was.

    Args:
        winner: of the finalists the one that was certified, or predicted to be within the budget.
    """
    if healing.standing is None:
        return None
    model, evaluator = healing.build(winner), healing.context.cached_evaluator.evaluator
    return HealedWinner(
        model, evaluator.evaluate(model), evaluator.evaluate(model, TEST), _summarise(healing, winner),
        {
            each.architecture: build_curves(state)
            for each, state in zip(healing.finalists, healing.standing.states, strict=True)
        },
    )  # fmt: skip


def _summarise(healing: FinalistHealing, winner: Architecture) -> dict[str, Any]:
    """How long the winner and all finalists were trained, on what."""
    assert healing.standing is not None, "it was trained"
    states = healing.standing.states
    state = states[[each.architecture for each in healing.finalists].index(winner)]
    return {
        "train": healing.recipe.trained,
        "asked_minutes": round(healing.seconds / 60, 4),
        "minutes": round(sum(each.seconds for each in states) / 60, 2),
        "finalists": len(states),
        "rungs": [rung.until for rung in healing.standing.rungs],
        "steps": state.done,
        "best_step": state.best_step,
        "tokens_seen": state.tokens,
        "tokens_seen_by_all": sum(each.tokens for each in states),
        "data": healing.training_data.data,
    }
