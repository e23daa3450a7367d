"""The best candidates of a search side by side: what each loses as dropped, compensated and healed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.architecture import Architecture

_AS_DROPPED, _COMPENSATED, _HEALED = "as dropped", "compensated", "healed"


@dataclass(frozen=True)
class Finalist:
    """One of the best candidates of a search. Losses are of all validation items.

    Attributes:
        number: its place by the loss that the search judged it by, from 1.
        as_dropped: before anything was adjusted.
        compensated: after; None where the search adjusts nothing.
        rungs: after each rung of healing that it took part in.
        healed: the lowest that its training came to; None where it was not trained.
    """

    number: int
    architecture: Architecture
    predicted_ms: float
    as_dropped: float
    compensated: float | None
    rungs: tuple[float, ...] = ()
    healed: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "number": self.number,
            "words": self.architecture.words,
            "architecture": self.architecture.to_json(),
            "predicted_ms": round(self.predicted_ms, 4),
            "as_dropped": self.as_dropped,
            "compensated": self.compensated,
            "rungs": list(self.rungs),
            "healed": self.healed,
        }


def list_rung_steps(healing: dict[str, Any] | None) -> list[int]:
    """How many steps were made until the end of each rung in which finalists were compared: all but the last.

    Args:
        healing: of a result's winner; None where nothing was healed.
    """
    return [] if healing is None else list(healing["rungs"][:-1])


def tabulate_finalists(finalists: Sequence[dict[str, Any]], steps: Sequence[int] = ()) -> list[list[str]]:
    """The table of finalists, its head first: a row for each, a column for each stage, with ranks in brackets.

    Args:
        finalists: as `Finalist.to_json` gives them.
        steps: that were made until the end of each rung; from `list_rung_steps`.
    """
    columns = [
        (_AS_DROPPED, [each["as_dropped"] for each in finalists]),
        (_COMPENSATED, [each["compensated"] for each in finalists]),
        *((f"{until} steps", [_get_after(each, rung) for each in finalists]) for rung, until in enumerate(steps)),
        (_HEALED, [each["healed"] for each in finalists]),
    ]
    columns = [each for each in columns if any(loss is not None for loss in each[1])]
    rows = [
        [f"{each['number']}", *(_format_ranked(losses, place) for _, losses in columns), f"{each['predicted_ms']:.2f}"]
        for place, each in enumerate(finalists)
    ]
    return [["finalist", *(name for name, _ in columns), "predicted ms"], *rows]


def describe_order(finalists: Sequence[dict[str, Any]], steps: Sequence[int] = ()) -> list[str]:
    """What compensation and healing changed in the order of the finalists, a sentence for each; nothing of one.

    Args:
        finalists: as `Finalist.to_json` gives them, best compensated first.
        steps: that were made until the end of each rung; from `list_rung_steps`.
    """
    losses = {each["number"]: each["as_dropped"] for each in finalists}
    stage, said = _AS_DROPPED, []
    columns = [("compensation", _COMPENSATED, [each["compensated"] for each in finalists])]
    columns += [
        (f"healing for {until} steps", f"after {until} steps", [_get_after(each, rung) for each in finalists])
        for rung, until in enumerate(steps)
    ]
    for cause, name, column in columns:
        now = {each["number"]: loss for each, loss in zip(finalists, column, strict=True) if loss is not None}
        if len(now) > 1:
            said.append(
                _describe_change(cause, stage, sorted(now, key=losses.__getitem__), sorted(now, key=now.__getitem__))
            )
        if now:
            losses, stage = losses | now, name
    return said


def _describe_change(cause: str, stage: str, before: Sequence[int], now: Sequence[int]) -> str:
    listed = ", ".join(map(str, now))
    if list(before) == list(now):
        return f"{cause} left the order: {listed}"
    return f"{cause} changed the order: {listed} (best first), {stage} {', '.join(map(str, before))}"


def _get_after(finalist: dict[str, Any], rung: int) -> float | None:
    """The loss after a rung; None for one that took no part in it."""
    losses: list[float] = finalist["rungs"]
    return losses[rung] if rung < len(losses) else None


def _format_ranked(losses: Sequence[float | None], place: int) -> str:
    """A loss with its rank among those that are known."""
    loss = losses[place]
    if loss is None:
        return ""
    rank = 1 + sum(other is not None and other < loss for other in losses)
    return f"{loss:.4f} ({rank})"
