"""How a cell ended, beside the result of its search: `cell.json` in its folder."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nas.storage.result_folder import RESULT

FILE = "cell.json"
LOSS, OVER_MS, REASON, CELL = "loss", "latency_ms", "reason", "cell"  # of what is told to Ray

State = Literal["winner", "infeasible", "failed"]


@dataclass(frozen=True)
class Outcome:
    """The end of one cell.

    Attributes:
        seconds: of wall clock, from loading the model to the written folder.
        reason: why there is no winner; empty where there is one.
        budget_ms, closest_ms: where nothing met the budget: what was allowed and what came nearest, if known.
    """

    state: State
    seconds: float
    reason: str = ""
    budget_ms: float | None = None
    closest_ms: float | None = None

    def save(self, folder: Path) -> None:
        """Write it; the file is complete or not there."""
        draft = folder / f"{FILE}.draft"
        draft.write_text(json.dumps(asdict(self), indent=1) + "\n")
        draft.replace(folder / FILE)


def read_outcome(folder: Path) -> Outcome | None:
    """How the cell of a folder ended; None where it has not.

    A result counts, whoever wrote it: a search that failed may have been gone on with by hand.
    """
    kept = _read(folder / FILE)
    outcome = None if kept is None else Outcome(**kept)
    result = read_result(folder)
    if result is None or (outcome is not None and outcome.state == "winner"):
        return outcome
    return Outcome("winner", result["search"]["seconds"])


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of the cell's search, if it has one."""
    return _read(folder / RESULT)


def build_report(folder: Path, outcome: Outcome) -> dict[str, Any]:
    """What Ray and the sweep's study are told: the loss, the ms above the budget (0 or below meets it), the reason."""
    result = read_result(folder) if outcome.state == "winner" else None
    if result is None:
        near = outcome.closest_ms, outcome.budget_ms
        over = None if near[0] is None or near[1] is None else max(near[0] - near[1], math.ulp(0))
        return {OVER_MS: over, REASON: outcome.reason}
    winner = result["winner"]
    return {LOSS: winner["quality"]["loss"], OVER_MS: get_reached_ms(winner) - result["budget_ms"]}


def get_reached_ms(entry: dict[str, Any]) -> float:
    """The latency of an entry of a result: measured where it was, else predicted."""
    measured = entry["measured_ms"]
    return float(entry["predicted_ms"] if measured is None else measured)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return document
