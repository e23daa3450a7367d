"""Is one candidate really better? Paired differences on the items both were judged on."""

import math
from dataclasses import dataclass
from typing import Any

from nas.quality.quality import Quality

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """The mean difference in loss of one candidate to another, item by item; negative is better.

    `low` and `high` bound it with 95 % confidence (paired t), `p_value` is of no difference, two-sided.
    """

    against: str
    difference: float
    low: float
    high: float
    p_value: float
    items: int

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `tie` where the interval holds 0."""
        if self.low <= 0 <= self.high:
            return "tie"
        return "better" if self.high < 0 else "worse"

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "against": self.against,
            "difference": self.difference,
            "interval": [bound if math.isfinite(bound) else None for bound in (self.low, self.high)],
            "p_value": self.p_value,
            "items": self.items,
            "verdict": self.verdict,
        }


def compare(one: Quality, other: Quality, against: str) -> Comparison:
    """`one` against `other` on the items that both were judged on: the first ones, where one saw fewer.

    Raises:
        ValueError: they were judged on different splits, or one on nothing.
    """
    common = min(len(one.per_item), len(other.per_item))
    if one.split != other.split or not common:
        counts = f"{len(one.per_item)} {one.split} items cannot be paired with {len(other.per_item)}"
        raise ValueError(f"{counts} of {other.split}")
    differences = [a - b for a, b in zip(one.per_item[:common], other.per_item[:common], strict=True)]
    mean = math.fsum(differences) / len(differences)
    if len(differences) < 2 or max(differences) == min(differences):
        certain = len(differences) > 1
        bound = (mean, mean) if certain else (-math.inf, math.inf)
        return Comparison(against, mean, *bound, 0.0 if certain and mean else 1.0, len(differences))
    from scipy.stats import ttest_1samp

    test = ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    return Comparison(against, mean, float(low), float(high), float(test.pvalue), len(differences))
