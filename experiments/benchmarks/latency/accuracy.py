"""How good predictions are, and how that is printed."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

WITHIN = 0.10


@dataclass(frozen=True)
class Accuracy:
    """Of predictions against held-out measurements.

    Attributes:
        mape, within: mean absolute relative error, and the share of predictions at most 10 % off.
        spearman: rank correlation.
        coverage: the share of measurements inside the interval; `half_width` of the interval, as a ratio less 1.
    """

    mape: float
    within: float
    spearman: float
    coverage: float
    half_width: float

    @classmethod
    def of(cls, predicted: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64],
           measured: NDArray[np.float64]) -> "Accuracy":  # fmt: skip
        from scipy.stats import spearmanr

        error = np.abs(predicted / measured - 1)
        inside = (low <= measured) & (measured <= high)
        return cls(
            float(error.mean()), float((error <= WITHIN).mean()), float(spearmanr(predicted, measured)[0]),
            float(inside.mean()), float(np.exp(np.log(high / low).mean() / 2) - 1),
        )  # fmt: skip

    @classmethod
    def average(cls, several: Iterable["Accuracy"]) -> "Accuracy":
        rows = [asdict(one) for one in several]
        return cls(**{name: fmean(row[name] for row in rows) for name in rows[0]})


def format_markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all but the first column are aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
