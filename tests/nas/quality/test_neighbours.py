"""Retrieval: hits are counted by hand on points of a line and a circle."""

import math

import pytest
import torch
from families import build
from test_quality import dataset, dropped

from nas.quality import choose_evaluator
from nas.quality.neighbours import compute_retrieval


def on_circle(*degrees: float) -> torch.Tensor:
    """Vectors of length 1, whose cosine falls with the angle between them."""
    return torch.tensor([[math.cos(math.radians(each)), math.sin(math.radians(each))] for each in degrees])


def test_hits_are_those_counted_by_hand() -> None:
    """Eight texts on a circle, of which the candidate moves the last from one end to the other."""
    parent = on_circle(0, 10, 21, 33, 46, 60, 75, 91)
    own = on_circle(0, 10, 21, 33, 46, 60, 75, -5)
    wanted = [
        {1, 2, 3, 4, 5}, {0, 2, 3, 4, 5}, {1, 0, 3, 4, 5}, {2, 4, 1, 5, 0}, {3, 5, 2, 6, 1}, {4, 6, 3, 7, 2},
        {5, 7, 4, 3, 2}, {6, 5, 4, 3, 2},
    ]  # fmt: skip
    found = [
        {7, 1, 2, 3, 4}, {0, 2, 7, 3, 4}, {1, 3, 0, 4, 7}, {2, 4, 1, 5, 0}, {3, 5, 2, 6, 1}, {4, 6, 3, 2, 1},
        {5, 4, 3, 2, 1}, {0, 1, 2, 3, 4},
    ]  # fmt: skip
    hits = [len(one & other) for one, other in zip(wanted, found, strict=True)]
    assert hits == [4, 4, 4, 5, 5, 4, 4, 3]
    figures = compute_retrieval(own, parent)
    assert figures["recall_at_5"] == pytest.approx(sum(hits) / 40)
    # Nearest by the parent: 1 0 1 2 3 4 5 6; by the candidate: 7 0 1 2 3 4 5 0.
    assert figures["same_nearest"] == pytest.approx(6 / 8)


def test_lengths_count_where_vectors_are_compared_by_distance_or_product() -> None:
    """On a line, the longest vector has the largest product with all, and is the farthest from most."""
    parent = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [40.0]])
    own = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [0.5]])
    assert compute_retrieval(own, parent, "dot")["same_nearest"] == pytest.approx(1 / 7)  # 5 answers 6 in both
    for distance in ("euclidean", "manhattan"):
        # Nearest by the parent: 1 0 1 2 3 4 5; by the candidate the last is nearest to 0, and 0 to the last.
        assert compute_retrieval(own, parent, distance)["same_nearest"] == pytest.approx(5 / 7)


def test_of_five_texts_all_are_found() -> None:
    assert compute_retrieval(torch.eye(5), torch.eye(5)) == {}


def test_whole_splits_of_an_embedding_model_are_judged_by_retrieval() -> None:
    model, data = build("bert"), dataset("bert")
    evaluator, candidate = choose_evaluator(model, data), dropped(model, 1)
    whole = evaluator.evaluate(candidate, "test").others
    assert 0 < whole["recall_at_5"] < 1
    assert {"recall_at_5", "same_nearest"} <= whole.keys()
    assert not {"recall_at_5", "same_nearest"} & evaluator.evaluate(candidate, "test", 8).others.keys()
    itself = evaluator.evaluate(model, "test").others
    assert (itself["recall_at_5"], itself["same_nearest"]) == (1.0, 1.0)
