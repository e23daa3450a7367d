"""Paired differences against values worked by hand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.quality.comparison import compare
from nas.quality.quality import Quality


def quality(*losses: float, split: str = "test") -> Quality:
    mean = math.fsum(losses) / len(losses)
    return Quality("kl", mean, False, split, mean, {}, len(losses), tuple(losses))


def test_the_interval_of_a_textbook_example() -> None:
    """Differences 1, 2, 3, 4, 5: mean 3, standard error 0.7071, t(4; 97.5 %) = 2.7764."""
    found = compare(quality(2, 4, 6, 8, 10), quality(1, 2, 3, 4, 5), "other")
    assert found.difference == 3
    assert (found.low, found.high) == pytest.approx((3 - 1.9632, 3 + 1.9632), abs=1e-3)
    assert found.p_value == pytest.approx(0.0132, abs=1e-3)
    assert found.verdict == "worse"
    assert compare(quality(1, 2, 3, 4, 5), quality(2, 4, 6, 8, 10), "other").verdict == "better"


def test_noise_is_a_tie_though_the_means_differ() -> None:
    assert compare(quality(1.0, 3.0, 2.0, 5.0), quality(2.0, 1.0, 3.0, 4.0), "other").verdict == "tie"


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_nothing_differs_from_itself(losses: list[float]) -> None:
    found = compare(quality(*losses), quality(*losses), "itself")
    assert (found.difference, found.verdict) == (0, "tie")


def test_a_constant_difference_is_certain_and_one_item_says_nothing() -> None:
    assert compare(quality(1, 2, 3), quality(2, 3, 4), "other").verdict == "better"
    assert compare(quality(1), quality(2), "other").verdict == "tie"


def test_the_items_that_both_saw_are_compared() -> None:
    short, long = quality(1, 2), quality(2, 4, 90)
    assert compare(short, long, "other").difference == -1.5
    assert compare(long, short, "other").items == 2


def test_other_items_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="3 test items cannot be paired with 0 of test"):
        compare(quality(1, 2, 3), replace(quality(1), per_item=()), "other")
    with pytest.raises(ValueError, match="cannot be paired"):
        compare(quality(1, 2), quality(1, 2, split="validation"), "other")
