"""The regression against laws that are known: coefficients, coverage, corrections only where there is something."""

import numpy as np
import pytest

from latency_models.regression import Regression
from latency_models.validation import validate


def law(seed: int, count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a constant and two counts, and 2 + 0.5 a + 0.8 b with relative noise."""
    rng = np.random.default_rng(seed)
    rows = np.column_stack([np.ones(count), rng.integers(0, 13, (count, 2))]).astype(float)
    return rows, rows @ np.array([2.0, 0.5, 0.8]) * rng.lognormal(0, noise, count)


def test_coefficients_of_a_known_law_are_recovered() -> None:
    rows, measured = law(0, 30, 0.0)
    fitted = Regression.fit(rows, measured)
    assert fitted.coefficients == pytest.approx([2.0, 0.5, 0.8])
    assert fitted.predict(np.array([1.0, 20.0, 20.0])) == pytest.approx(28.0)
    assert fitted.left_out == pytest.approx(measured)


def test_a_term_that_would_save_time_is_left_at_nothing() -> None:
    rows, _ = law(0, 30, 0.0)
    fitted = Regression.fit(rows, rows @ np.array([9.0, 0.5, -0.3]))
    assert (fitted.coefficients >= 0).all()
    assert fitted.coefficients[2] == 0


def test_of_equal_columns_the_first_takes_it_all() -> None:
    rows, measured = law(0, 30, 0.0)
    fitted = Regression.fit(np.column_stack([rows[:, 0], rows]), measured)
    assert fitted.coefficients == pytest.approx([2.0, 0.0, 0.5, 0.8])


def test_intervals_hold_as_often_as_they_say() -> None:
    inside = []
    for seed in range(60):
        rows, measured = law(seed, 50, 0.1)
        fitted = Regression.fit(rows[:30], measured[:30])
        for row, value in zip(rows[30:], measured[30:], strict=True):
            low, high = fitted.predict_interval(row)
            inside.append(low <= value <= high)
    assert 0.87 <= np.mean(inside) <= 0.94  # 1,200 of them: one standard error is 0.009


def test_a_narrower_coverage_is_a_narrower_interval() -> None:
    rows, measured = law(1, 40, 0.1)
    fitted = Regression.fit(rows, measured)
    row = np.array([1.0, 5.0, 5.0])
    (low, high), (inner_low, inner_high) = fitted.predict_interval(row, 0.95), fitted.predict_interval(row, 0.5)
    assert low < inner_low <= fitted.predict(row) <= inner_high < high


def test_outside_is_outside_of_the_convex_hull_not_of_the_box() -> None:
    corners = np.array([[1.0, 0.0, 0.0], [1.0, 8.0, 0.0], [1.0, 0.0, 8.0], [1.0, 1.0, 1.0]])
    fitted = Regression.fit(corners, np.array([1.0, 2.0, 3.0, 1.5]))
    assert not fitted.is_outside(np.array([1.0, 4.0, 4.0]))  # on the edge
    assert not fitted.is_outside(np.array([1.0, 0.0, 0.0]))
    assert fitted.is_outside(np.array([1.0, 5.0, 5.0]))  # in the box, beyond the edge
    assert fitted.is_outside(np.array([1.0, 9.0, 0.0]))


def with_hint(seed: int, saved: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """The law, and a hint of which each count saves `saved`."""
    rows, _ = law(seed, 60, 0.0)
    rng = np.random.default_rng(seed + 1000)
    hint = rng.integers(0, 6, len(rows)).astype(float)
    true = rows @ np.array([4.0, 0.5, 0.8]) - saved * hint
    return np.column_stack([rows, hint]), true * rng.lognormal(0, noise, len(rows))


def test_a_saving_that_no_positive_term_can_say_is_learned_by_the_correction() -> None:
    rows, measured = with_hint(0, 0.3, 0.005)
    plain, corrected = Regression.fit(rows[:35, :3], measured[:35]), Regression.fit(rows[:35], measured[:35], 3)
    assert corrected.corrected
    errors = [
        np.mean([abs(fit.predict(row[: fit.rows.shape[1]]) / value - 1) for row, value in
                 zip(rows[35:], measured[35:], strict=True)])
        for fit in (plain, corrected)
    ]  # fmt: skip
    assert errors[1] < 0.5 * errors[0]


def test_a_hint_that_means_nothing_is_hardly_ever_used() -> None:
    used = [Regression.fit(*with_hint(seed, 0.0, 0.05), 3).corrected for seed in range(20)]
    assert sum(used) <= 2


def test_the_correction_stays_within_what_was_seen() -> None:
    rows, measured = with_hint(0, 0.3, 0.005)
    fitted = Regression.fit(rows, measured, 3)
    most = rows[:, 3].max()
    far, further = (fitted.predict(np.array([1.0, 6.0, 6.0, hint])) for hint in (100 * most, 1000 * most))
    assert far == pytest.approx(further)
    assert far > 0


def test_validation_says_what_leave_one_out_says() -> None:
    rows, measured = law(3, 25, 0.05)
    fitted = Regression.fit(rows, measured)
    by_hand = [
        Regression.fit(np.delete(rows, i, 0), np.delete(measured, i)).predict(rows[i]) / measured[i] - 1
        for i in range(25)
    ]
    found = validate(fitted)
    assert found.mape == pytest.approx(np.abs(by_hand).mean())
    assert found.within == pytest.approx(np.mean(np.abs(by_hand) <= 0.1))
    assert 0.7 <= found.coverage <= 1.0
    assert found.spearman > 0.95


@pytest.mark.parametrize(
    ("rows", "measured"),
    [
        (np.ones((3, 2)), np.ones(2)),
        (np.ones((0, 2)), np.ones(0)),
        (np.ones((2, 2)), np.array([1.0, 0.0])),
        (np.full((2, 2), np.nan), np.ones(2)),
    ],
)
def test_what_cannot_be_fitted_is_refused(rows: np.ndarray, measured: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rows"):
        Regression.fit(rows, measured)
