"""A regression with few samples: positive physical terms, a correction where it pays, intervals that hold.

L1 is non-negative least squares on relative error, since a 5 % error means the same at 2 ms and at 200 ms. L2 is a
ridge regression of what L1 leaves, on all columns and further ones ("hints") that may add or save; used only where it
lowers the leave-one-out error clearly, and every left-out fit makes that decision anew without the row it predicts.
Intervals are jackknife+ (Barber et al. 2021) on the log ratio of measured to predicted.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_models.nonnegative import Array, fit_nonnegative, fit_without_each

COVERAGE = 0.9
CLEARLY = 0.92  # a correction is used when it brings the leave-one-out error to this share or less
_SHRINKAGES = (0.03, 0.3, 3.0)  # of the ridge, in units of the number of rows
_TINY = 1e-9
_ON_HULL = 1e-6  # distance, in units of the largest value of each column, that still counts as inside


@dataclass(frozen=True)
class _Fits:
    """Several fits (m) of the same columns; `weights` are zero where a fit does without the correction."""

    coefficients: Array  # (m, terms)
    weights: Array  # (m, columns)
    centres: Array  # (m, columns)
    low: Array  # (columns,): what was seen of a column over the measured; beyond it the correction stays as it is there
    high: Array

    def predict_logs(self, row: Array) -> Array:
        """The log of what each fit predicts of one row, shape (m,)."""
        terms = self.coefficients.shape[1]
        fitted = np.maximum(self.coefficients @ row[:terms], _TINY)
        shares = np.clip(row / fitted[:, None], self.low, self.high)
        return np.asarray(np.log(fitted) + ((shares - self.centres) * self.weights).sum(1), dtype=np.float64)


@dataclass(frozen=True)
class Regression:
    """Fitted to rows (n, columns) and what was measured of them (n,), in any unit.

    Attributes:
        residuals: log of measured over predicted, each row predicted from the others, shape (n,).
        inner: whether a row lies within the hull of the others, shape (n,).
    """

    rows: Array
    measured: Array
    terms: int
    residuals: Array
    inner: NDArray[np.bool_]
    _fit: _Fits
    _without: _Fits  # one fit per row, without that row

    @classmethod
    def fit(cls, rows: Array, measured: Array, terms: int | None = None) -> "Regression":
        """Fit.

        Args:
            rows: shape (n, columns), not negative.
            measured: shape (n,), above zero.
            terms: how many columns, from the first, are physical terms; the rest are hints. Default: all.

        Raises:
            ValueError: shapes that do not match, values that are not finite, or nothing to fit.
        """
        terms = rows.shape[1] if terms is None else terms
        if rows.shape[0] != measured.shape[0] or not len(measured) or not 1 <= terms <= rows.shape[1]:
            raise ValueError(f"rows {rows.shape}, measured {measured.shape} and {terms} terms do not fit together")
        if not (np.isfinite(rows).all() and np.isfinite(measured).all() and (measured > 0).all()):
            raise ValueError("rows must be finite, and what was measured finite and above zero")
        whole = _fit_subsets(rows, measured, terms, [np.arange(len(measured))])
        others = [np.delete(np.arange(len(measured)), i) for i in range(len(measured))]
        without = _fit_subsets(rows, measured, terms, others) if len(measured) > 1 else whole
        predicted = np.array([without.predict_logs(row)[i] for i, row in enumerate(rows)])
        corners = rows[:, :terms]
        inner = np.array([bool(len(rest)) and _is_within(corners[i], corners[rest]) for i, rest in enumerate(others)])
        return cls(rows, measured, terms, np.log(measured) - predicted, inner, whole, without)

    @property
    def coefficients(self) -> Array:
        """Of the physical terms, in the unit of what was measured."""
        return np.asarray(self._fit.coefficients[0], dtype=np.float64)

    @property
    def corrected(self) -> bool:
        """Whether the correction was worth its use."""
        return bool(self._fit.weights.any())

    @property
    def left_out(self) -> Array:
        """What is predicted of each row from the others, shape (n,)."""
        return np.asarray(self.measured / np.exp(self.residuals), dtype=np.float64)

    def predict(self, row: Array) -> float:
        """The prediction of one row."""
        return math.exp(self._fit.predict_logs(row)[0])

    def predict_interval(self, row: Array, coverage: float = COVERAGE) -> tuple[float, float]:
        """Where a measurement of this row lies in `coverage` of the cases; as wide as the rows allow when few.

        How far off a corner is when the others are extrapolated to it says little of a row between them: such a row
        is judged by the inner residuals, where they are enough.
        """
        judges = np.ones(len(self.rows), dtype=bool)
        if self.inner.sum() * (1 - coverage) + 1e-9 >= coverage and not self.is_outside(row):  # (n + 1) coverage <= n
            judges = self.inner
        logs, spread = self._without.predict_logs(row)[judges], np.abs(self.residuals[judges])
        rank = min(math.ceil((len(logs) + 1) * coverage), len(logs))
        low, high = np.sort(logs - spread)[-rank], np.sort(logs + spread)[rank - 1]
        middle = self._fit.predict_logs(row)[0]
        return math.exp(min(low, middle)), math.exp(max(high, middle))

    def is_outside(self, row: Array) -> bool:
        """Whether the terms of a row are no mixture of those that were measured: outside their convex hull."""
        return not _is_within(row[: self.terms], self.rows[:, : self.terms])


def _is_within(row: Array, corners: Array) -> bool:
    """Whether a row is a convex combination of corners (n, columns)."""
    from scipy.optimize import nnls

    scale = np.maximum(corners.max(0), row)
    scale[scale == 0] = 1.0
    try:
        _, distance = nnls(np.vstack([(corners / scale).T, np.ones(len(corners))]), np.append(row / scale, 1.0))
    except RuntimeError:  # it went in circles: nothing shows that the row is inside
        return False
    return bool(distance <= _ON_HULL)


def _fit_subsets(rows: Array, measured: Array, terms: int, subsets: list[NDArray[np.intp]]) -> _Fits:
    """One fit per subset of the rows."""
    fits = [_fit(rows[subset], measured[subset], terms) for subset in subsets]
    coefficients, weights, centres = (np.array([fit[i] for fit in fits]) for i in range(3))
    shares = rows / measured[:, None]
    return _Fits(coefficients, weights, centres, shares.min(0), shares.max(0))


def _fit(rows: Array, measured: Array, terms: int) -> tuple[Array, Array, Array]:
    """(coefficients, weights and centres of the correction)."""
    coefficients = fit_nonnegative(rows[:, :terms], measured)
    columns = rows.shape[1]
    if columns == terms or len(measured) <= terms + 2:
        return coefficients, np.zeros(columns), np.zeros(columns)
    left = fit_without_each(rows[:, :terms], measured)
    residuals = np.log(measured / np.maximum((rows[:, :terms] * left).sum(1), _TINY))
    fitted = np.maximum(rows[:, :terms] @ coefficients, _TINY)
    shares = rows / fitted[:, None]
    return coefficients, _fit_correction(shares - shares.mean(0), residuals), shares.mean(0)


def _compute_leverage(rows: Array, gram: Array) -> Array:
    """The diagonal of rows @ inverse(gram) @ rows.T, shape (n,), without the rest of it."""
    return np.asarray((rows * np.linalg.solve(gram, rows.T).T).sum(1), dtype=np.float64)


def _fit_correction(features: Array, residuals: Array) -> Array:
    """Ridge weights of centred features; zeros where leave-one-out finds the correction not clearly better."""
    scale = features.std(0)
    scale[scale < _TINY] = np.inf  # a hint that never changes says nothing
    standard = features / scale
    count, width = standard.shape
    best, chosen = CLEARLY * math.sqrt(float(np.mean(residuals**2))), np.zeros(width)
    for shrinkage in _SHRINKAGES:
        gram = standard.T @ standard + shrinkage * count * np.eye(width)
        weights, leverage = np.linalg.solve(gram, standard.T @ residuals), _compute_leverage(standard, gram)
        left_out = (residuals - standard @ weights) / (1 - leverage)
        error = math.sqrt(float(np.mean(left_out**2)))
        if error <= best:
            best, chosen = error, weights / scale
    return np.asarray(chosen, dtype=np.float64)
