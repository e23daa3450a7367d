"""L1: a latency model fitted to a few whole-model measurements.

Milliseconds are a non-negative combination of physical terms: a constant (stem, launches) and, per class of units
that do the same work (full attention, attention with a window, MLP), the number of units kept. It is fitted on
relative error, since a 5 % error means the same at 2 ms and at 200 ms. Each measurement enters as its
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
TAIL_SAMPLES = 64  # fewer bound no 90th percentile (MLPerf's early stopping): the tail of all records is used
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
        named = {unit: self._class_of(unit) for unit in kept_units(Architecture.parent(profile.shape.depth))}
        classes = sorted(set(named.values()))
        self._places = {unit: 1 + classes.index(name) for unit, name in named.items()}  # after the constant
        self._tails: dict[int, float] = {}
        terms = np.array([self.terms(record.architecture) for record in profile.records])
        self._least, self._most = terms.min(0), terms.max(0)
        measured = np.array([self._level(record.measurement.ratio()) for record in profile.records])
        self.coefficients = _nnls_relative(terms, measured)
        self._leave_one_out = np.array(
            [_nnls_relative(np.delete(terms, i, 0), np.delete(measured, i)) for i in range(len(measured))]
        )
        predicted = (terms * self._leave_one_out).sum(1)
        self._residuals: Array = np.abs(np.log(measured / np.maximum(predicted, 1e-9)))

    def terms(self, architecture: Architecture) -> Array:
        """The constant and, per class of unit, how many are kept."""
        row = np.zeros(1 + max(self._places.values()))
        row[0] = 1.0
        for unit in kept_units(architecture):
            row[self._places[unit]] += 1.0
        return row

    def predict(self, architecture: Architecture, percentile: int = 50) -> Prediction:
        """The measured value where there is one, else the fit with its jackknife+ interval.

        A percentile other than the median is the fitted median times the records' median of percentile over median.
        """
        known = self.profile.of(architecture)
        if known is not None:
            enough = len(known.samples_ms) >= TAIL_SAMPLES
            tail = known.percentile(percentile) / known.p50 if enough else self._tail(percentile)
            ms = self._level(known.ratio()) * tail
            low_ms, high_ms = (ms * bound / known.p50 for bound in known.median_interval(COVERAGE))
            return Prediction(ms, low_ms, high_ms, percentile, exact=True)
        tail = self._tail(percentile)
        row = self.terms(architecture)
        logs = np.log(np.maximum(self._leave_one_out @ row, 1e-9))
        rank = min(math.ceil((len(logs) + 1) * COVERAGE), len(logs))  # jackknife+, clipped to the sample
        low = sorted(logs - self._residuals)[-rank]
        high = sorted(logs + self._residuals)[rank - 1]
        ms = float(row @ self.coefficients)
        low_ms, high_ms = min(ms, math.exp(low)), max(ms, math.exp(high))
        outside = bool((row < self._least).any() or (row > self._most).any())
        return Prediction(ms * tail, low_ms * tail, high_ms * tail, percentile, extrapolated=outside)

    def unit_ms(self, unit: Unit) -> float:
        """The fitted milliseconds (p50) of a unit; of a block, both."""
        kinds = (Kind.ATTENTION, Kind.MLP) if unit.kind is Kind.BLOCK else (unit.kind,)
        return float(sum(self.coefficients[self._places[Unit(unit.layer, kind)]] for kind in kinds))

    @property
    def error(self) -> float:
        """Median relative error when each record is predicted from the others."""
        return float(np.expm1(np.median(self._residuals)))

    def _tail(self, percentile: int) -> float:
        if percentile not in self._tails:
            measurements = [record.measurement for record in self.profile.records]
            self._tails[percentile] = float(np.median([m.percentile(percentile) / m.p50 for m in measurements]))
        return self._tails[percentile]

    def _class_of(self, unit: Unit) -> str:
        work = unit_work(self.profile.shape, unit, self.workload)
        return f"{unit.kind}:{work.flops:.0f}:{work.weights:.0f}"

    def _level(self, ratio: float) -> float:
        return ratio * self._parent.p50


def _nnls_relative(terms: Array, measured: Array) -> Array:
    """Non-negative coefficients with the least squared relative error."""
    from scipy.optimize import nnls

    solution, _ = nnls(terms / measured[:, None], np.ones(len(measured)))
    return np.asarray(solution, dtype=np.float64)
