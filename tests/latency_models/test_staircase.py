"""Steps of a synthetic device that works in tiles, and of one that does not."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_models.measurement import Measurement
from latency_models.staircase import Staircase, build_measured_staircase, build_staircase, compute_widths
from latency_models.workload import Phase, Workload
from search_spaces import Stage

TILE = 64


def tiled(count: int) -> float:
    return 1.0 + 0.5 * math.ceil(count / TILE)


def noisy(count: int, rng: random.Random, noise: float = 0.02) -> Measurement:
    """On a machine that is twice as slow in half of the rounds, beside 576 tokens."""
    machine = [rng.choice((1.0, 2.0)) for _ in range(41)]
    own, whole = (
        tuple(ms * slow * rng.lognormvariate(0, noise) for slow in machine) for ms in (tiled(count), tiled(576))
    )
    return Measurement(own, Workload(Phase.FORWARD, 1, count), whole)


def test_a_device_that_works_in_tiles_is_found_out() -> None:
    rng, counts = random.Random(0), range(16, 577, 16)
    found = build_measured_staircase({count: noisy(count, rng) for count in counts})
    assert found.tops == tuple(range(TILE, 577, TILE))
    assert found.lows[1:] == tuple(low + 16 for low in found.tops[:-1])
    assert set(compute_widths(found)) == {TILE}
    assert not found.smooth
    assert found.count(270, 576) == 320  # as long as 272, the first of that step: they share a tile of 8
    assert found.count(260, 576) == 264  # after 256, a step's last; 264 was not measured
    assert found.count(280, 576) == 320
    assert found.count(570, 576) == 576
    assert found.snap(280 / 576, 576) == pytest.approx(320 / 576, abs=1e-3)
    assert found.list_ratios((0.5, 0.45, 0.97), 576) == (0.459, 0.556)  # 259 costs what 264 does, 559 what 576 does


def test_where_noise_hides_everything_nothing_is_claimed() -> None:
    rng = random.Random(0)
    found = build_measured_staircase({count: noisy(count, rng, 0.3) for count in range(16, 577, 16)}, tile=8)
    assert found == Staircase(tile=8)


def test_a_smooth_device_has_no_steps_and_ratios_stay() -> None:
    found = build_staircase({count: 0.1 + count / 100 for count in range(16, 257, 16)})
    assert found.smooth
    assert [found.snap(ratio, 256) for ratio in (0.25, 0.5, 0.75)] == [0.25, 0.5, 0.75]


def test_a_gentle_slope_is_no_step() -> None:
    """Neighbours are equal within the noise everywhere, the ends are not: steps stay as narrow as the noise."""
    milliseconds = {count: 1 + count / 10_000 for count in range(100, 2001, 10)}
    found = build_staircase(milliseconds, noise=0.02)
    assert len(found.tops) > 5
    for low, top in zip(found.lows, found.tops, strict=True):
        assert milliseconds[top] <= 1.0205 * milliseconds[low]


def test_fewer_tokens_that_measure_slower_are_never_chosen() -> None:
    found = build_staircase({64: 1.0, 96: 1.7, 128: 1.5, 192: 2.0})  # 96 falls off the fast path
    assert found.count(96, 192) == 128
    assert found.count(64, 192) == 64


@given(st.integers(1, 1000), st.integers(2, 3000), st.integers(0, 40), st.sampled_from([1, 8, 64]))
def test_without_measurements_counts_are_multiples_of_a_tile(
    permille: int, droppable: int, others: int, tile: int
) -> None:
    steps = Staircase(tile=tile)
    kept = Stage(0, permille).count_kept(droppable)
    snapped = steps.snap(permille / 1000, droppable, others)
    left = Stage(0, round(1000 * snapped)).count_kept(droppable)
    assert kept <= left <= droppable
    assert math.ceil((left + others) / tile) == math.ceil((kept + others) / tile)  # no slower
    assert steps.snap(snapped, droppable, others) == pytest.approx(snapped)


def test_ratios_that_drop_nothing_any_more_are_left_out() -> None:
    assert Staircase(tile=64).list_ratios((0.25, 0.3, 0.5, 0.9), 128) == (0.5,)


def test_two_ratios_that_leave_as_many_tokens_are_one() -> None:
    """Of 47 and one more: a half and 0.35 both leave 24, the end of a tile."""
    assert Staircase(tile=8).list_ratios((0.5, 0.35), 47, 1) == (0.5,)
