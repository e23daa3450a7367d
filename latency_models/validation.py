"""How good a regression is by its own records, each predicted from the others."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from latency_models.regression import COVERAGE, Regression

WITHIN = 0.10


@dataclass(frozen=True)
class Validation:
    """Leave-one-out.

    Attributes:
        mape: mean absolute relative error; `within`: the share that is at most 10 % off.
        spearman: rank correlation of predicted and measured.
        coverage: the share of records inside the interval that the others give, nominally 0.9.

    Example:
        >>> validation = validate(CalibratedModel(profile).regression)
        >>> validation.mape < 0.05
        True
    """

    records: int
    mape: float
    within: float
    spearman: float
    coverage: float

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def validate(regression: Regression) -> Validation:
    """Leave-one-out errors, and the coverage of intervals made without the record they are to cover."""
    from scipy.stats import spearmanr

    errors = np.abs(regression.left_out / regression.measured - 1)
    rank = float(spearmanr(regression.left_out, regression.measured)[0])
    count = len(errors)
    covered = sum(_covers(regression, left) for left in range(count)) / count
    return Validation(count, float(errors.mean()), float((errors <= WITHIN).mean()), rank, covered)


def _covers(regression: Regression, left: int) -> bool:
    rows, measured = np.delete(regression.rows, left, 0), np.delete(regression.measured, left)
    low, high = Regression.fit(rows, measured, regression.terms).predict_interval(regression.rows[left], COVERAGE)
    return bool(low <= regression.measured[left] <= high)
