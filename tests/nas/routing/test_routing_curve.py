"""Thresholds and the curve, against shares that were counted by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.routing import Answers, Costs, Point, build_routing, compute_curve, compute_point, find_threshold

# The surest two are right, of the surest four three, of all five three.
FIVE = Answers(torch.tensor([0.6, 0.9, 0.7, 0.8, 0.5]), torch.tensor([True, True, False, True, False]))


@pytest.mark.parametrize(
    ("asked", "threshold"), [(1.0, 0.8), (0.9, 0.8), (0.75, 0.6), (0.7, 0.6), (0.6, 0.5), (0.1, 0.5)]
)
def test_the_threshold_is_the_least_that_is_right_often_enough(asked: float, threshold: float) -> None:
    assert find_threshold(FIVE, asked) == pytest.approx(threshold)


def test_where_the_surest_is_wrong_often_enough_there_is_none() -> None:
    assert find_threshold(Answers(torch.tensor([0.9, 0.2]), torch.tensor([False, True])), 0.6) is None


def test_queries_of_one_confidence_are_kept_together() -> None:
    answers = Answers(torch.tensor([0.8, 0.9, 0.8]), torch.tensor([True, True, False]))
    assert find_threshold(answers, 0.9) == pytest.approx(0.9)
    assert find_threshold(answers, 0.6) == pytest.approx(0.8)


def test_a_point_counts_what_is_kept_and_what_the_parent_answers() -> None:
    point = compute_point(FIVE, 0.55)
    assert (point.share, point.agreement) == (0.8, 0.75)
    assert point.overall == pytest.approx(4 / 5)  # one of five is answered in another way
    assert compute_point(FIVE, 0.95) == Point(0.95, 0.0, 1.0)


def test_the_curve_has_a_point_for_each_share() -> None:
    curve = compute_curve(FIVE, (0.0, 0.4, 1.0))
    assert [(round(point.threshold, 3), point.share) for point in curve] == [(0.9, 0.2), (0.8, 0.4), (0.5, 1.0)]
    assert [point.agreement for point in curve] == pytest.approx([1.0, 1.0, 0.6])


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.4]), st.booleans()), min_size=1, max_size=12))
def test_no_lower_threshold_is_right_often_enough(queries: list[tuple[float, bool]]) -> None:
    answers = Answers(torch.tensor([each for each, _ in queries]), torch.tensor([right for _, right in queries]))

    def is_enough(threshold: float) -> bool:
        kept = [right for confidence, right in queries if confidence >= threshold]
        return sum(kept) >= 0.7 * len(kept)

    enough = [confidence for confidence, _ in queries if is_enough(confidence)]
    found = find_threshold(answers, 0.7)
    assert (None if found is None else round(found, 3)) == min(enough, default=None)


def test_what_is_saved_is_the_parent_s_time_for_what_is_kept_without_the_winner_s_for_all() -> None:
    costs = Costs(winner_ms=4.0, parent_ms=10.0, measured=True, winner_joules=1.0, parent_joules=3.0)
    assert costs.compute_saved_ms(0.8) == pytest.approx(4.0)  # of ten queries: 100 ms before, 40 + 20 ms now
    assert costs.compute_saved_ms(0.0) == -4.0
    assert costs.compute_saved_joules(0.5) == pytest.approx(0.5)
    assert Costs(4.0, 10.0, measured=False).compute_saved_joules(0.5) is None


def test_costs_are_measured_where_both_were() -> None:
    result = {"winner": {"predicted_ms": 4.0, "measured_ms": 5.0}, "parent": {"predicted_ms": 9.0, "measured_ms": None}}
    assert Costs.of(result) == Costs(4.0, 9.0, measured=False)
    result["parent"]["measured_ms"] = 8.0
    assert Costs.of(result) == Costs(5.0, 8.0, measured=True)


def test_thresholds_are_chosen_on_one_split_and_counted_on_the_other() -> None:
    test = Answers(torch.tensor([0.95, 0.85, 0.75, 0.65]), torch.tensor([True, False, True, True]))
    routing = build_routing(FIVE, test, Costs(4.0, 10.0, measured=False), (0.9, 0.05))
    assert routing.thresholds[0.9] is not None
    assert routing.thresholds[0.9].threshold == pytest.approx(0.8)
    assert (routing.thresholds[0.9].share, routing.thresholds[0.9].agreement) == (0.5, 0.5)
    document = routing.to_json()
    assert document["queries"] == 4
    assert document["thresholds"][0]["saved_ms"] == pytest.approx(1.0)
    assert [point["share"] for point in document["curve"]][-1] == 1.0
