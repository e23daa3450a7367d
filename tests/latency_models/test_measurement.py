"""A measurement's figures against counting by hand and against random draws."""

import numpy as np
import pytest
from scipy.stats import binom

from latency_models.measurement import Measurement, compute_min_samples
from latency_models.workload import Workload
from search_spaces.errors import MeasurementError

HERE = Workload.parse("forward")


def numbered(count: int) -> Measurement:
    return Measurement(tuple(float(rank) for rank in range(1, count + 1)), HERE)


@pytest.mark.parametrize(("percent", "count"), [(50, 7), (90, 43), (90, 44), (90, 100), (99, 459), (99, 662)])
def test_the_upper_bound_is_the_binomial_s(percent: int, count: int) -> None:
    bounding = [k for k in range(1, count + 1) if binom.sf(k - 1, count, percent / 100) <= 0.01]
    assert numbered(count).compute_upper_bound(percent) == (min(bounding) if bounding else None)


def test_the_upper_bound_is_rarely_below_the_true_percentile() -> None:
    rng = np.random.default_rng(0)
    true = np.exp(1.2815515655446004 * 0.2)  # the 90th percentile of exp(0.2 normal)
    draws = [
        Measurement(tuple(np.exp(0.2 * rng.standard_normal(100))), HERE).compute_upper_bound(90) for _ in range(1000)
    ]
    below = sum(bound is not None and bound < true for bound in draws)
    assert 0 < below <= 20  # about one per cent of a thousand


@pytest.mark.parametrize(("percent", "count"), [(50, 6), (50, 7), (90, 44), (90, 100), (99, 662)])
def test_the_lower_bound_is_the_binomial_s(percent: int, count: int) -> None:
    bounding = [k for k in range(1, count + 1) if binom.cdf(k - 1, count, percent / 100) <= 0.01]
    assert numbered(count).compute_lower_bound(percent) == (max(bounding) if bounding else None)


def test_the_bounds_of_a_ratio_hold_whatever_slows_both_files_down() -> None:
    """Rounds are up to thirty times slower than others, both files alike; the true ratio is 0.5."""
    rng, missed = np.random.default_rng(1), 0
    for _ in range(500):
        pace = np.exp(rng.uniform(0, np.log(30), 80))
        own, other = (pace * ms * np.exp(0.05 * rng.standard_normal(80)) for ms in (5.0, 10.0))
        low, high = Measurement(tuple(own), HERE, tuple(other)).compute_ratio_bounds()
        assert low is not None
        assert high is not None
        assert high - low < 0.05
        missed += not low <= 0.5 <= high
    assert missed <= 15  # at most two per cent of 500, and what is left to chance


@pytest.mark.parametrize(("percent", "mlperf"), [(90, 64), (99, 662)])
def test_least_samples_give_a_bound_below_the_largest(percent: int, mlperf: int) -> None:
    count = compute_min_samples(percent)
    bound = numbered(count).compute_upper_bound(percent)
    assert bound is not None
    assert bound < count
    assert mlperf <= count <= 1.05 * mlperf + 1


def test_sessions_and_energy_are_kept_and_checked() -> None:
    given = Measurement((1.0, 2.0, 3.0), HERE, (1.0, 1.0, 1.0), sessions=(1, 2), joules=(0.5, 0.25))
    assert Measurement.from_json(given.to_json()) == given
    for wrong in ({"sessions": (1, 1)}, {"sessions": (3, 0)}, {"joules": (-1.0,)}, {"joules": (float("nan"),)}):
        with pytest.raises(MeasurementError):
            Measurement((1.0, 2.0, 3.0), HERE, **wrong)


def test_joining_keeps_samples_pairs_and_sessions_in_order() -> None:
    first = Measurement((1.0, 2.0, 3.0), HERE, (4.0, 5.0, 6.0), sessions=(1, 2))
    second = Measurement((7.0,), HERE, (8.0,), joules=(0.5,))
    assert first.join(second) == Measurement(
        (1.0, 2.0, 3.0, 7.0), HERE, (4.0, 5.0, 6.0, 8.0), sessions=(1, 2, 1), joules=(0.5,)
    )
    for other in (Measurement((1.0,), Workload.parse("prefill"), (1.0,)), Measurement((1.0,), HERE)):
        with pytest.raises(MeasurementError, match="not joined"):
            first.join(other)
