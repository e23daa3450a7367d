"""L1: a latency model fitted to a few whole-model measurements.

Milliseconds are a non-negative combination of physical terms: a constant (stem, launches), one term per class of
attention (full, or its window) and one for the MLPs, each the roofline-free work ratio of the kept units. It is
fitted on relative error, since a 5 % error means the same at 2 ms and at 200 ms. Each measurement enters as its
ratio to the sentinel of the same round times the parent's median, which takes drift out.

Intervals are jackknife+ (Barber et al. 2021) on the log ratio of measured to predicted.
"""

import math

import numpy as np
from numpy.typing import NDArray

from latency_models.model import MEASURED_LABEL, Prediction
from latency_models.profile import Profile
from latency_models.terms import kept_units, unit_work
from search_spaces.architecture import Architecture
from search_spaces.errors import MeasurementError
from search_spaces.unit import Kind, Unit

COVERAGE = 0.9
LEAST_RECORDS = 4
Array = NDArray[np.float64]


class CalibratedModel:
    """Predicts from a profile; an architecture that was measured is answered with its measurement."""

    measured = True
    label = MEASURED_LABEL

    def __init__(self, profile: Profile) -> None:
        """Fit the profile.

        Raises:
            MeasurementError: with fewer than four records, or without the parent among them.
        """
        parent = profile.of(Architecture.parent(profile.shape.depth))
        if parent is None or len(profile.records) < LEAST_RECORDS:
            raise MeasurementError(
                f"the profile has {len(profile.records)} records; at least {LEAST_RECORDS} with the parent among them "
                "are needed, so measure again"
            )
        self.profile, self.workload, self._parent = profile, profile.workload, parent
        self._classes = sorted({self._class_of(unit) for unit in kept_units(Architecture.parent(profile.shape.depth))})
        terms = np.array([self.terms(record.architecture) for record in profile.records])
        measured = np.array([self._level(record.measurement.ratio()) for record in profile.records])
        self.coefficients = _nnls_relative(terms, measured)
        self._leave_one_out = [
            _nnls_relative(np.delete(terms, i, 0), np.delete(measured, i)) for i in range(len(measured))
        ]
        predicted = np.array([row @ c for row, c in zip(terms, self._leave_one_out, strict=True)])
        self._residuals: Array = np.abs(np.log(measured / np.maximum(predicted, 1e-9)))
        self._tails = {p: _median([r.measurement.percentile(p) / r.measurement.p50 for r in profile.records])
                       for p in range(50, 100)}  # fmt: skip

    def terms(self, architecture: Architecture) -> Array:
        """The constant and, per class of unit, the work that is left relative to the parent's."""
        counts = dict.fromkeys(self._classes, 0.0)
        for unit in kept_units(architecture):
            counts[self._class_of(unit)] += 1.0
        return np.array([1.0, *(counts[name] for name in self._classes)])

    def predict(self, architecture: Architecture, percentile: int = 50) -> Prediction:
        """The measured value where there is one, else the fit with its jackknife+ interval."""
        known = self.profile.of(architecture)
        tail = self._tails[percentile]
        if known is not None:
            ms = self._level(known.ratio()) * known.percentile(percentile) / known.p50
            return Prediction(ms, ms, ms, percentile, exact=True)
        row = self.terms(architecture)
        logs = [math.log(max(float(row @ c), 1e-9)) for c in self._leave_one_out]
        low = _quantile([log - r for log, r in zip(logs, self._residuals, strict=True)], 1 - COVERAGE, lower=True)
        high = _quantile([log + r for log, r in zip(logs, self._residuals, strict=True)], COVERAGE, lower=False)
        ms = float(row @ self.coefficients)
        low_ms, high_ms = min(ms, math.exp(low)), max(ms, math.exp(high))
        return Prediction(ms * tail, low_ms * tail, high_ms * tail, percentile, extrapolated=self._outside(row))

    def unit_ms(self, unit: Unit) -> float:
        """The fitted milliseconds (p50) of a unit; of a block, both."""
        kinds = (Kind.ATTENTION, Kind.MLP) if unit.kind is Kind.BLOCK else (unit.kind,)
        places = [1 + self._classes.index(self._class_of(Unit(unit.layer, kind))) for kind in kinds]
        return float(sum(self.coefficients[place] for place in places))

    @property
    def error(self) -> float:
        """Median relative error when each record is predicted from the others."""
        return float(np.expm1(np.median(self._residuals)))

    def _class_of(self, unit: Unit) -> str:
        work = unit_work(self.profile.shape, unit, self.workload)
        return f"{unit.kind}:{work.flops:.0f}:{work.weights:.0f}"

    def _level(self, ratio: float) -> float:
        return ratio * self._parent.p50

    def _outside(self, row: Array) -> bool:
        seen = np.array([self.terms(record.architecture) for record in self.profile.records])
        return bool((row < seen.min(0)).any() or (row > seen.max(0)).any())


def _nnls_relative(terms: Array, measured: Array) -> Array:
    """Non-negative coefficients with the least squared relative error."""
    from scipy.optimize import nnls

    solution, _ = nnls(terms / measured[:, None], np.ones(len(measured)))
    return np.asarray(solution, dtype=np.float64)


def _quantile(values: list[float], share: float, lower: bool) -> float:
    """The finite-sample quantile of jackknife+: rank ceil((n+1) * share), clipped to the sample."""
    ordered = sorted(values)
    rank = math.floor((len(ordered) + 1) * share) if lower else math.ceil((len(ordered) + 1) * share)
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def _median(values: list[float]) -> float:
    return float(np.median(values))
