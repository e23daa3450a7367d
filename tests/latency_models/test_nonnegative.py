"""Leaving rows out by updates against solving each fit anew with SciPy."""

import numpy as np
import pytest
from scipy.optimize import nnls

from latency_models import nonnegative
from latency_models.nonnegative import fit_nonnegative, fit_without_each


def naive(terms: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """One fit a row, of the relative error; of equal columns only the first takes part."""
    found = np.zeros_like(terms)
    for left in range(len(measured)):
        rows, ms = np.delete(terms, left, 0), np.delete(measured, left)
        _, first = np.unique(rows, axis=1, return_index=True)
        first.sort()
        found[left, first] = nnls(rows[:, first] / ms[:, None], np.ones(len(ms)))[0]
    return found


def case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts with a constant; by the seed with equal, dependent and negative terms, empty rows, no noise."""
    rng = np.random.default_rng(seed)
    count, width = int(rng.integers(6, 30)), int(rng.integers(2, 8))
    terms = rng.integers(0, 5, (count, width)).astype(float)
    terms[:, 0] = 1.0
    if seed % 5 == 0 and width > 2:
        terms[:, 2] = terms[:, 0] + terms[:, 1]
    if seed % 7 == 0:
        terms[:, 1] = terms[:, 0]
    if seed % 11 == 0:
        terms[0, 1:] = 0.0
    true = rng.normal(0.4, 1.0, width)
    noise = rng.normal(0, 0.1, count) if seed % 3 else np.zeros(count)
    return terms, np.maximum(np.abs(terms @ true), 0.05) * np.exp(noise)


@pytest.mark.parametrize("seed", range(80))
def test_without_each_row_is_what_solving_anew_finds(seed: int) -> None:
    terms, measured = case(seed)
    expected = naive(terms, measured)
    assert fit_without_each(terms, measured) == pytest.approx(expected, rel=1e-7, abs=1e-9 * np.abs(expected).max())


def test_a_row_that_alone_tells_a_term_takes_it_with_it() -> None:
    terms = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
    left = fit_without_each(terms, np.array([2.0, 2.0, 2.0, 5.0]))
    assert left[3] == pytest.approx([2.0, 0.0])
    assert left[:3] == pytest.approx(np.tile([2.0, 1.5], (3, 1)))


def test_hardly_any_row_is_solved_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, solved = np.random.default_rng(0), []
    terms = np.column_stack([np.ones(300), rng.integers(0, 13, (300, 4))]).astype(float)
    measured = terms @ np.array([2.0, 0.5, 0.0, 0.8, 0.0]) * rng.lognormal(0, 0.05, 300)

    def counting(rows: np.ndarray, ms: np.ndarray) -> np.ndarray:
        solved.append(len(rows))
        return fit_nonnegative(rows, ms)

    monkeypatch.setattr(nonnegative, "fit_nonnegative", counting)
    fit_without_each(terms, measured)
    assert solved == [300]  # the whole fit
