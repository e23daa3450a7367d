"""The design against random ones of the same size, by the determinant and by what a fit makes of them."""

import random

import numpy as np
import pytest

from latency_models.measurement_design import compute_log_determinant, design_measurements, list_extremes
from latency_models.shape import ModelShape
from latency_models.terms import Terms, count_units
from latency_models.workload import Phase, Workload
from search_spaces import Architecture, Kind, Unit
from search_spaces.architecture import drop_from_parent


def randomly(depth: int, seed: int, count: int) -> list[Architecture]:
    rng = random.Random(seed)
    units = [Unit(layer, kind) for layer in range(depth) for kind in (Kind.ATTENTION, Kind.MLP)]
    found: set[Architecture] = set()
    while len(found) < count:
        share = rng.random()
        found.add(drop_from_parent(depth, (unit for unit in units if rng.random() < share)))
    return list(found)


@pytest.mark.parametrize("depth", [3, 12, 32])
def test_the_design_tells_more_than_random_designs_of_its_size(depth: int) -> None:
    chosen = design_measurements(depth)
    assert 20 <= len(chosen) <= 40
    assert len(set(chosen)) == len(chosen)
    best = max(compute_log_determinant(randomly(depth, seed, len(chosen))) for seed in range(30))
    assert compute_log_determinant(chosen) > best
    assert compute_log_determinant(chosen) > compute_log_determinant(list_extremes(depth))


def test_the_extremes_are_always_there_the_parent_first() -> None:
    chosen = design_measurements(12, seed=7)
    kept = [tuple(sum(a.keeps(i, kind) for i in range(12)) for kind in (Kind.ATTENTION, Kind.MLP)) for a in chosen]
    assert kept[0] == (12, 12)
    assert {(0, 0), (12, 0), (0, 12), (6, 6)} <= set(kept)
    assert drop_from_parent(12, (Unit(i, Kind.ATTENTION) for i in range(0, 12, 2))) in chosen


def test_the_same_seed_gives_the_same_design() -> None:
    assert design_measurements(8, seed=3) == design_measurements(8, seed=3)
    assert design_measurements(8, seed=3) != design_measurements(8, seed=4)


@pytest.mark.parametrize("depth", [2, 6, 24])
def test_every_term_is_identifiable(depth: int) -> None:
    rows = np.array([count_units(architecture) for architecture in design_measurements(depth)])
    assert np.linalg.matrix_rank(rows) == rows.shape[1]


def test_units_that_do_different_work_are_told_apart() -> None:
    shape = ModelShape(12, 64, 2, 2, 32, 128, True, 100, True, True, 0, (None, 16) * 6)
    terms = Terms(shape, Workload(Phase.FORWARD, 1, 64))
    rows = np.array(
        [terms.compute_row(architecture) for architecture in design_measurements(12, row=terms.compute_row)]
    )
    assert terms.names[3:] == ("attention", "attention, window 16", "mlp")
    assert np.linalg.matrix_rank(rows) == rows.shape[1]


def test_a_shallow_parent_has_every_architecture_in_its_design() -> None:
    assert len(design_measurements(1)) == 4
    assert len(design_measurements(2)) == 16
