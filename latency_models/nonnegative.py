"""Non-negative least squares on the relative error, and the same without each row in turn.

A fit without one row differs from the whole fit by a rank-one update as long as the same coefficients stay above zero
(Sherman and Morrison 1950). Whether they do is read off the optimality conditions of Karush, Kuhn and Tucker; only the
rows for which that does not settle it are solved anew.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SLACK = 1e-10  # of a gradient, in units of the lengths of the columns that it is made of
_HELD_BY_ONE = 1 - 1e-6  # leverage of a row that alone determines a coefficient
_DEPENDENT = 1e-10  # of a column's length: what is new in one that others make up
_GUESSES = 8  # of which coefficients are above zero, before a row is solved anew


def fit_nonnegative(terms: Array, measured: Array) -> Array:
    """Coefficients with the least squared relative error; of equal columns the first takes it all.

    Args:
        terms: shape (n, k), not negative.
        measured: shape (n,), above zero.

    Returns:
        Shape (k,), not negative.
    """
    from scipy.optimize import nnls

    fresh = _find_distinct(terms)
    solution = np.zeros(terms.shape[1])
    solution[fresh], _ = nnls(terms[:, fresh] / measured[:, None], np.ones(len(measured)))
    return solution


def fit_without_each(terms: Array, measured: Array) -> Array:
    """`fit_nonnegative` without each of the rows, in time that grows with their number, not with its square.

    Returns:
        Shape (n, k): row i is the fit of all rows but i.
    """
    scaled, everyone = terms / measured[:, None], np.arange(len(measured))
    rivals = _find_distinct(terms) & scaled.any(0)
    unique = _compute_influence(scaled[:, rivals])[0] < _HELD_BY_ONE
    left, settled = np.zeros_like(terms), np.zeros(len(measured), dtype=np.bool_)
    guesses = {(fit_nonnegative(terms, measured) > 0).tobytes(): everyone}
    for _ in range(_GUESSES):
        further: dict[bytes, list[int]] = {}
        for guess, rows in guesses.items():
            used = np.frombuffer(guess, dtype=np.bool_)
            fits, gradients, trusted = _fit_without(scaled, used, rows)
            left[rows] = fits
            settled[rows] = trusted & (fits >= 0).all(1) & _is_optimal(gradients[:, rivals & ~used], unique[rows])
            for position in np.flatnonzero(trusted & ~settled[rows]):
                better = _improve_guess(used, fits[position], np.where(rivals, gradients[position], -1.0))
                further.setdefault(better.tobytes(), []).append(int(rows[position]))
        guesses = {guess: np.array(rows) for guess, rows in further.items()}
    for row in np.flatnonzero(~settled):
        left[row] = fit_nonnegative(terms[everyone != row], measured[everyone != row])
    return left


def _find_distinct(terms: Array) -> Mask:
    """Which columns equal none before them, shape (k,)."""
    first = {column.tobytes(): position for position, column in reversed(list(enumerate(terms.T + 0.0)))}
    return np.isin(np.arange(terms.shape[1]), list(first.values()))


def _compute_influence(columns: Array) -> tuple[Array, Array]:
    """(leverage of each row, shape (n,); inverse Gram matrix times each row, shape (n, k)).

    Leverage is 1 everywhere where the columns depend on each other, so that no update is trusted.
    """
    count, width = columns.shape
    if not 0 < width <= count:
        return np.full(count, float(width > 0)), np.zeros((count, width))
    basis, triangle = np.linalg.qr(columns)
    if (np.abs(np.diag(triangle)) <= _DEPENDENT * np.linalg.norm(columns, axis=0)).any():
        return np.ones(count), np.zeros((count, width))
    return (basis**2).sum(1), np.linalg.solve(triangle, basis.T).T


def _fit_without(scaled: Array, used: Mask, rows: NDArray[np.intp]) -> tuple[Array, Array, Mask]:
    """Least squares on the used columns without each of some rows.

    Returns:
        (fits, shape (m, k), zero where a column is not used; the gradient by which each column would lower the error,
        shape (m, k), in units of their lengths; whether the row may be taken out by an update, shape (m,))
    """
    active = scaled[:, used]
    leverage, moves = _compute_influence(active)
    whole = moves.T.sum(1)  # the fit of all rows to 1
    trusted = leverage[rows] < _HELD_BY_ONE
    error = (1 - active @ whole)[rows] / np.where(trusted, 1 - leverage[rows], 1.0)  # by the fit without the row
    fits = np.zeros((len(rows), scaled.shape[1]))
    fits[:, used] = whole - moves[rows] * error[:, None]
    gradients = scaled.sum(0) - fits @ (scaled.T @ scaled) - scaled[rows] * error[:, None]
    lengths = np.linalg.norm(scaled, axis=0) * np.sqrt(len(scaled)) + np.finfo(float).tiny
    return fits, gradients / lengths, trusted


def _is_optimal(gradients: Array, unique: Mask) -> Mask:
    """Whether no idle column (m, columns) would lower the error.

    A gradient of zero does not settle that unless the solution is unique without the row.
    """
    limits = np.where(unique, _SLACK, -_SLACK)
    return np.asarray((gradients < limits[:, None]).all(1), dtype=np.bool_)


def _improve_guess(used: Mask, fit: Array, gradients: Array) -> Mask:
    """The used columns without those that came out negative; if there are none, with the one that helps most."""
    if (fit < 0).any():
        return used & (fit > 0)
    better = used.copy()
    better[np.where(used, -1.0, gradients).argmax()] = True
    return better
