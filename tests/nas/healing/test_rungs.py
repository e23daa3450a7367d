"""Who goes on, and how the time is shared, worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.healing.rungs import Rung, list_rung_sizes, plan_steps


@pytest.mark.parametrize(
    ("finalists", "sizes"),
    [(1, (1,)), (2, (2, 1)), (3, (3, 2, 1)), (4, (4, 2, 1)), (5, (5, 3, 2, 1)), (8, (8, 4, 2, 1))],
)
def test_the_better_half_goes_on_until_one_is_left(finalists: int, sizes: tuple[int, ...]) -> None:
    assert list_rung_sizes(finalists) == sizes


def test_the_time_is_shared_by_hand() -> None:
    """600 s, one a step: 30 % for the first two rungs, so 90 s each, of 4 and of 2; what is left is for the last."""
    first = int(0.97 * 90 / 4)
    second, last = int(0.97 * 90 / 2), int(0.97 * 420)
    assert plan_steps((4, 2, 1), 0, 600, 600, 1.0) == (first, first + second + last)
    assert plan_steps((4, 2, 1), 1, 600, 520, 1.0) == (second, second + int(0.97 * 430))
    assert plan_steps((4, 2, 1), 2, 600, 430, 1.0) == (int(0.97 * 430), int(0.97 * 430))
    assert plan_steps((1,), 0, 600, 600, 2.0) == (291, 291)


@given(st.integers(1, 9), st.floats(1.0, 1e4), st.floats(1e-3, 10.0))
def test_all_planned_steps_fit_into_the_time_unless_there_is_none(
    finalists: int, seconds: float, step_s: float
) -> None:
    sizes, left = list_rung_sizes(finalists), seconds
    for rung, size in enumerate(sizes):
        steps, _ = plan_steps(sizes, rung, seconds, left, step_s)
        assert steps >= 1
        left -= steps * size * step_s
    assert left >= 0 or seconds < 40 * finalists * step_s


def test_a_rung_knows_its_best_and_is_read_as_it_was_written() -> None:
    rung = Rung(20, 100, {0: 9.0, 2: 8.5, 3: 9.0}, {0: 0.3, 2: 0.1, 3: 0.2})
    assert rung.members == (0, 2, 3)
    assert rung.list_best(2) == (2, 3)
    assert Rung.from_json(rung.to_json()) == rung
    assert Rung.from_json(Rung(20, 100, {1: 2.0}).to_json()) == Rung(20, 100, {1: 2.0})
