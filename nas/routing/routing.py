"""Which queries a winner answers itself: thresholds, and what they cost and save, as `winner/routing.json` has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.routing.answers import Answers
from nas.routing.curve import Point, compute_curve, compute_point, find_threshold

SCHEMA_VERSION = 1
SHARES = tuple(step / 20 for step in range(1, 21))  # of the curve


@dataclass(frozen=True)
class Costs:
    """What a run of the workload takes in either model; `measured` is false where it is predicted.

    Attributes:
        winner_joules, parent_joules: None where the target has no figure.
    """

    winner_ms: float
    parent_ms: float
    measured: bool
    winner_joules: float | None = None
    parent_joules: float | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> "Costs":
        """As the result of a search has them (`Result.to_json`); both milliseconds are measured, or both predicted."""
        winner, parent = result["winner"], result["parent"]
        measured = None not in (winner["measured_ms"], parent["measured_ms"])
        name = "measured_ms" if measured else "predicted_ms"
        return cls(winner[name], parent[name], measured, winner.get("joules"), parent.get("joules"))

    def compute_saved_ms(self, share: float) -> float:
        """Against the parent alone, where it runs for what the winner does not keep; the winner always runs."""
        return share * self.parent_ms - self.winner_ms

    def compute_saved_joules(self, share: float) -> float | None:
        """The same in joules; None where they are not known."""
        if self.winner_joules is None or self.parent_joules is None:
            return None
        return share * self.parent_joules - self.winner_joules


@dataclass(frozen=True)
class Routing:
    """Thresholds for asked agreements, and the whole curve.

    Attributes:
        queries: of the test split, on which all points are.
        thresholds: by the agreement that was asked for; None where no confidence reaches it.

    Example:
        >>> answers = Answers(torch.tensor([0.9, 0.6, 0.3]), torch.tensor([True, True, False]))
        >>> routing = build_routing(answers, answers, Costs(4.0, 10.0, measured=True), agreements=(0.99,))
        >>> routing.thresholds[0.99].share
        0.6666666666666666
    """

    queries: int
    costs: Costs
    thresholds: dict[float, Point | None]
    curve: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "schema_version": SCHEMA_VERSION,
            "confidence": "largest probability of the softmax",
            "queries": self.queries,
            "split": "test",
            "thresholds_chosen_on": "validation",
            "winner_ms": self.costs.winner_ms,
            "parent_ms": self.costs.parent_ms,
            "measured": self.costs.measured,
            "thresholds": [
                {"asked_agreement": asked, **({"threshold": None} if point is None else self._describe(point))}
                for asked, point in self.thresholds.items()
            ],
            "curve": [self._describe(point) for point in self.curve],
        }

    def _describe(self, point: Point) -> dict[str, float | None]:
        return {
            "threshold": point.threshold,
            "share": point.share,
            "agreement": point.agreement,
            "overall_agreement": point.overall,
            "saved_ms": self.costs.compute_saved_ms(point.share),
            "saved_joules": self.costs.compute_saved_joules(point.share),
        }


def build_routing(validation: Answers, test: Answers, costs: Costs, agreements: Sequence[float]) -> Routing:
    """Thresholds that are chosen on one split, and what they do on another, which had no part in the choice."""
    thresholds = {asked: find_threshold(validation, asked) for asked in agreements}
    points = {
        asked: None if threshold is None else compute_point(test, threshold) for asked, threshold in thresholds.items()
    }
    return Routing(len(test), costs, points, tuple(compute_curve(test, SHARES)))
