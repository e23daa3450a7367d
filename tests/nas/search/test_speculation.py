"""What a draft makes of its parent's speed, against sums over everything that can happen in a round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search.speculation import LONGEST, Draft, expect_speedup


def play(acceptance: float, tokens: int) -> float:
    """Tokens of a round on average: so many accepted, the first that is not ends it, and the parent adds one."""
    ends = [(accepted + 1) * acceptance**accepted * (1 - acceptance) for accepted in range(tokens)]
    return sum(ends) + (tokens + 1) * acceptance**tokens


@pytest.mark.parametrize("cost", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("acceptance", [0.0, 0.5, 0.93, 1.0])
def test_the_speed_is_that_of_rounds_on_average(acceptance: float, cost: float) -> None:
    for tokens in range(6):
        expected = play(acceptance, tokens) / (1 + tokens * cost)
        assert expect_speedup(acceptance, cost, tokens) == pytest.approx(expected)


def test_by_hand() -> None:
    assert expect_speedup(0.5, 0.25, 2) == pytest.approx((1 + 0.5 + 0.25) / 1.5)
    assert expect_speedup(1.0, 0.5, 2) == pytest.approx(3 / 2)


@given(st.floats(0, 1), st.floats(0.01, 2))
def test_no_other_number_of_tokens_is_faster(acceptance: float, cost: float) -> None:
    draft = Draft.of(acceptance, cost)
    assert draft.speedup == max(expect_speedup(acceptance, cost, tokens) for tokens in range(LONGEST + 1)) >= 1
    assert draft.speedup == expect_speedup(acceptance, cost, draft.tokens)


def test_a_draft_that_costs_more_than_it_brings_writes_nothing() -> None:
    assert Draft.of(0.3, 0.5) == Draft(0.3, 0.5, tokens=0, speedup=1.0)
    assert Draft.of(0.9, 0.1).tokens > Draft.of(0.7, 0.1).tokens > Draft.of(0.7, 0.5).tokens > 0
