"""A quick part of the benchmark of searches on a busy machine (`latency_accuracy.py bursts` runs 200)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "benchmarks"))

from latency.bursts import LOADS, run_search


@pytest.mark.parametrize("load", ["a job of minutes", "from now on"])
def test_no_load_ends_in_a_winner_that_the_budget_did_not_ask_for(load: str) -> None:
    found = run_search(8, load)
    assert not found.ruined
    assert not found.broken
    assert found.end == ("predicted" if load == "from now on" else "certified")
    assert found.minutes < 20


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_more_of_them(seed: int, fraction: bool) -> None:
    for load in LOADS:
        found = run_search(seed, load, fraction)
        assert not found.ruined
        assert not found.broken
