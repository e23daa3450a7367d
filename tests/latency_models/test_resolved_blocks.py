"""Blocks that differ, by their parent or by their level: each costs what its own parts do."""

import json
from dataclasses import replace

import numpy as np
import pytest

from latency_models.block_shape import AttentionShape, BlockShape, MlpShape
from latency_models.calibrated import CalibratedModel
from latency_models.datasheet_model import DataSheetModel, compute_roof_seconds
from latency_models.footprint import compute_memory, count_cached_bytes_per_token
from latency_models.measurement import Measurement
from latency_models.measurement_design import design_measurements
from latency_models.profile import Profile, Record
from latency_models.resolved_blocks import find_parts, resolve_blocks
from latency_models.shape import ModelShape
from latency_models.targets import find_target
from latency_models.terms import Terms
from latency_models.work import count_flops, list_works
from latency_models.workload import Phase, Workload
from search_spaces import PARTS, Architecture, Kind, Level, Space, Unit
from search_spaces.unit import Choice

PAIRS = AttentionShape(weights=4096, heads=4, pair=64, cached=32)
STATE = AttentionShape(weights=2048, heads=0, pair=0, cached=0, state=128, extra=256)
DENSE = MlpShape(dense=3 * 32 * 100, inner=200, extra=10)  # 100 neurons, gated
MIXTURE = MlpShape(dense=1000, inner=60, experts=8, expert=300, active=2)
HYBRID = ModelShape(
    3, 32, 4, 2, 8, 100, True, 0, False, True, 0, (None,) * 3,
    blocks=(BlockShape(PAIRS, DENSE), BlockShape(STATE, MIXTURE), BlockShape(PAIRS, DENSE)),
)  # fmt: skip
DEPTH = 6
LIKE = ModelShape(DEPTH, 64, 2, 2, 32, 256, False, 10, False, False, 0, (None,) * DEPTH)
HERE, PARENT = Workload(Phase.FORWARD, 1, 50), Architecture.parent(DEPTH)
WIDTHS = tuple(Unit(i, Kind.MLP).choose(Level.on("width", w)) for i in range(DEPTH) for w in (250, 500, 750))
DROPS = Space.dropping(DEPTH, (Unit(i, kind) for i in range(DEPTH) for kind in PARTS))
NARROWING = replace(DROPS, choices=(*DROPS.choices, *WIDTHS))


def made(*chosen: str, depth: int = DEPTH) -> Architecture:
    return Architecture.parent(depth).drop(*map(Choice.parse, chosen))


def test_every_block_of_a_hybrid_is_left_with_its_own_parts() -> None:
    first, second, third = resolve_blocks(HYBRID, made("attention.0", "mlp.1", "mlp.2:width=0.5", depth=3))
    assert first == BlockShape(None, DENSE)
    assert second == BlockShape(STATE, None)
    assert third == BlockShape(PAIRS, MlpShape(dense=3 * 32 * 48, inner=96, extra=4))  # 50 neurons are 6 eights
    assert resolve_blocks(HYBRID, made("block.1", depth=3))[1] == BlockShape(None, None)
    left = find_parts(HYBRID, made("block.0", "mlp.2", depth=3))
    assert left == [(Unit(1, Kind.ATTENTION), STATE), (Unit(1, Kind.MLP), MIXTURE), (Unit(2, Kind.ATTENTION), PAIRS)]


def test_a_hybrid_is_sized_by_the_blocks_that_are_left() -> None:
    whole, parent = Workload(Phase.FORWARD, 1, 5), Architecture.parent(3)
    sizes = {
        "mlp.0": (2 * 5 * (9600 + 10), 9600),
        "mlp.1": (2 * 5 * (1000 + 2 * 300), 1000 + 8 * 300),
        "attention.0": (2 * 5 * 4096 + 2 * 15 * 64, 4096),
        "attention.1": (2 * 5 * (2048 + 256), 2048),
        "mlp.2:width=0.5": (2 * 5 * (96 * 52 + 6), 96 * 52),
    }
    for chosen, (flops, weights) in sizes.items():
        less = made(chosen, depth=3)
        assert count_flops(HYBRID, parent, whole) - count_flops(HYBRID, less, whole) == flops
        held = [compute_memory(HYBRID, each, whole, "fp16").weights for each in (parent, less)]
        assert held[0] - held[1] == 2 * weights


def test_a_mixture_is_not_narrowed_and_a_narrow_mlp_keeps_eight_neurons() -> None:
    assert resolve_blocks(HYBRID, made("mlp.1:width=0.25", depth=3))[1].mlp == MIXTURE
    small = replace(LIKE, intermediate=12)
    assert resolve_blocks(small, made("mlp.0:width=0.25"))[0].mlp == MlpShape(2 * 64 * 8, 8)


def test_the_cache_is_that_of_the_attentions_that_are_left() -> None:
    assert count_cached_bytes_per_token(HYBRID, Architecture.parent(3), "fp16") == 2 * 2 * 32
    assert count_cached_bytes_per_token(HYBRID, made("attention.0", "mlp.2", depth=3), "fp16") == 2 * 32
    assert count_cached_bytes_per_token(LIKE, PARENT, "fp16") == 0


def test_a_part_of_another_precision_is_priced_by_its_own_bytes_and_peak() -> None:
    target, sheet = find_target("jetson-orin"), find_target("jetson-orin").sheet
    mixed = replace(HYBRID, blocks=(BlockShape(PAIRS, replace(DENSE, precision="int8")), *(HYBRID.blocks or ())[1:]))
    one, other = (list_works(shape, made("mlp.1", depth=3), HERE, target.precision)[2] for shape in (mixed, HYBRID))
    assert one.arithmetic == {"int8": other.flops}
    assert (other.weight_bytes, one.weight_bytes) == (2 * 9600, 9600)
    assert compute_roof_seconds(one, sheet)["arithmetic"] < compute_roof_seconds(other, sheet)["arithmetic"]
    assert compute_roof_seconds(one, sheet)["memory"] == compute_roof_seconds(other, sheet)["memory"] / 2
    held = [compute_memory(shape, Architecture.parent(3), HERE, "fp16").weights for shape in (HYBRID, mixed)]
    assert held[0] - held[1] == 9600
    both = one + other
    assert both.arithmetic == {"fp16": other.flops, "int8": other.flops}
    assert both.flops == 2 * other.flops
    assert ModelShape.from_json(json.loads(json.dumps(mixed.to_json()))) == mixed
    assert "precision" not in json.dumps(HYBRID.to_json())


def test_a_narrower_mlp_counts_as_its_share_and_has_a_column_where_such_were_measured() -> None:
    plain, leveled = Terms(LIKE, HERE), Terms.of_space(LIKE, HERE, NARROWING)
    narrow = made("mlp.0:width=0.25", "mlp.1:width=0.5", "mlp.2", "attention.5")
    assert plain == Terms.over(LIKE, HERE, design_measurements(DEPTH)) == Terms.of_space(LIKE, HERE, DROPS)
    assert leveled == Terms.over(LIKE, HERE, [PARENT, narrow])
    assert plain.compute_row(narrow)[:5] == pytest.approx([1, 1, 1, 5, 0.25 + 0.5 + 3])
    assert leveled.names == ("constant", "first unit", "first attention", "attention", "mlp", "mlp, work")
    assert leveled.compute_row(narrow)[:6] == pytest.approx([1, 1, 1, 5, 5, 0.25 + 0.5 + 3])
    assert leveled.compute_row(PARENT)[:6].tolist() == [1, 1, 1, 6, 6, 6]
    assert [terms.covers(made("mlp.2")) for terms in (plain, leveled)] == [True, True]
    assert [terms.covers(narrow) for terms in (plain, leveled)] == [False, True]


def test_fewer_tokens_of_a_narrower_mlp_are_the_product_of_both() -> None:
    terms = Terms(LIKE, HERE, tokens=True)
    row = dict(zip(terms.names, terms.compute_row(made("mlp.0:width=0.5", "tokens.0=0.5")), strict=False))
    share = (1 + 24) / 50  # half of 49 tokens and the first
    assert row["mlp"] == pytest.approx(5.5)
    assert row["mlp, tokens"] == pytest.approx(5.5 * share)
    assert row["attention, pairs"] == pytest.approx(6 * share**2)


def test_the_design_of_a_space_with_widths_measures_some_and_without_them_is_as_before() -> None:
    terms = Terms.of_space(LIKE, HERE, NARROWING)
    chosen = design_measurements(DEPTH, row=terms.compute_row, space=NARROWING)
    narrowed = [each for each in chosen if not terms.levels.isdisjoint(Terms.over(LIKE, HERE, [each]).levels)]
    assert made(*(f"mlp.{layer}:width=0.25" for layer in range(DEPTH))) in narrowed
    assert 3 <= len(narrowed) <= len(chosen) // 2
    assert len(chosen) == len(set(chosen)) == 30
    assert all(NARROWING.contains(each) for each in narrowed)
    rows = np.array([terms.compute_row(architecture) for architecture in chosen])
    assert np.linalg.matrix_rank(rows) == rows.shape[1]
    assert design_measurements(DEPTH, row=terms.compute_row, space=NARROWING) == chosen
    assert design_measurements(DEPTH, space=DROPS) == design_measurements(DEPTH)


def true_ms(architecture: Architecture, fixed: float) -> float:
    """An MLP takes 1 ms, of which a share is there whatever its width."""
    blocks = resolve_blocks(LIKE, architecture)
    mlps = [block.mlp.inner / 256 for block in blocks if block.mlp is not None]
    return 1.0 + 0.5 * sum(block.attention is not None for block in blocks) + sum(fixed + (1 - fixed) * w for w in mlps)


def fitted(architectures: list[Architecture], fixed: float) -> CalibratedModel:
    parent = true_ms(PARENT, fixed)
    records = (Record(a, Measurement((true_ms(a, fixed),) * 15, HERE, (parent,) * 15)) for a in architectures)
    return CalibratedModel(Profile({"device": "known"}, "digest", LIKE, HERE, tuple(records)))


def test_widths_that_were_not_measured_are_between_dropped_and_kept_and_measured_ones_are_learnt() -> None:
    half = Choice.parse("mlp.1:width=0.5")
    guessing = fitted(design_measurements(DEPTH), fixed=0.3)
    assert guessing.predict_unit_ms(half) == pytest.approx(0.5, rel=1e-3)
    assert guessing.predict_unit_ms(Unit(1, Kind.MLP)) == pytest.approx(1.0, rel=1e-3)
    assert guessing.predict(PARENT.drop(half)).extrapolated
    row = Terms.of_space(LIKE, HERE, NARROWING).compute_row
    knowing = fitted(design_measurements(DEPTH, row=row, space=NARROWING), fixed=0.3)
    assert knowing.predict_unit_ms(half) == pytest.approx(0.5 * 0.7, rel=1e-3)
    assert knowing.predict_unit_ms(Unit(1, Kind.MLP)) == pytest.approx(1.0, rel=1e-3)
    assert knowing.term_ms["mlp"] == pytest.approx(1.0, rel=1e-3)
    other = made("mlp.0:width=0.75", "mlp.3:width=0.25", "attention.2")
    assert knowing.predict(other).ms == pytest.approx(true_ms(other, 0.3), rel=1e-3)
    assert not knowing.predict(PARENT.drop(half)).extrapolated


def test_measurements_take_the_place_of_a_data_sheet() -> None:
    sheet = DataSheetModel(find_target("jetson-orin"), LIKE, HERE)
    assert sheet.profile is None
    profile = fitted(design_measurements(DEPTH), 0.0).profile
    assert sheet.refit(profile).profile is profile
