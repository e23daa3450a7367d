"""Fewer tokens: work by hand, a synthetic device's coefficients, marginal savings that telescope, memory of caches."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from token_device import DEPTH, HERE, REDUCTION, SHAPE, SPACE, TokenDevice, alone, random_architectures

from latency_models.calibrated import CalibratedModel
from latency_models.datasheet_model import DataSheetModel
from latency_models.footprint import compute_memory
from latency_models.measurement_design import choose_schedules, design_measurements
from latency_models.model import LatencyModel
from latency_models.shape import ModelShape
from latency_models.targets import find_target
from latency_models.terms import Terms
from latency_models.token_workloads import list_block_workloads, list_steps
from latency_models.work import compute_stage_work, compute_stem_work, compute_unit_work, count_flops, list_works
from latency_models.workload import Phase, Workload
from search_spaces import PARTS, Architecture, Kind, Reducer, Reduction, Schedule, Scorer, Unit
from search_spaces.architecture import make_stage_choice
from search_spaces.schedule import Stage

TERMS = Terms(SHAPE, HERE, tokens=True)
DECODER = ModelShape(4, 8, 2, 1, 4, 16, True, 10, True, True, 0, (None, None, 50, None))


def scheduled(text: str, depth: int = 4) -> Architecture:
    return Architecture.parent(depth).replace_tokens(Schedule.parse(text))


def calibrated(device: TokenDevice) -> CalibratedModel:
    chosen = design_measurements(DEPTH, row=TERMS.compute_row, schedules=choose_schedules(SPACE, TERMS.compute_row))
    return CalibratedModel(device.profile(chosen))


def test_what_each_block_sees_by_hand() -> None:
    # A prompt of 136: the first 4 and the last 32 stay, 100 may go.
    prompt = Workload(Phase.PREFILL, 2, 136)
    seen = list_block_workloads(DECODER, scheduled("1=0.5,3=0.25"), prompt)
    assert [each.sequence for each in seen] == [136, 86, 86, 61]
    # In decode the past is shorter, the one new token is there as ever.
    seen = list_block_workloads(DECODER, scheduled("1=0.5,3=0.25"), Workload(Phase.DECODE, 2, 1, 136))
    assert [(each.sequence, each.past) for each in seen] == [(1, 136), (1, 86), (1, 86), (1, 61)]
    # Of images all but the class token; where the number is given (image tokens of a prompt), those.
    image = replace(DECODER, causal=False)
    assert list_block_workloads(image, scheduled("0=0.5"), Workload(Phase.FORWARD, 1, 17))[0].sequence == 9
    fixed = replace(DECODER, droppable=16)
    assert list_block_workloads(fixed, scheduled("0=0.5"), Workload(Phase.PREFILL, 1, 40))[0].sequence == 32
    short = Workload(Phase.PREFILL, 1, 37)  # one droppable token: nothing happens
    assert set(list_block_workloads(DECODER, scheduled("1=0.5"), short)) == {short}


def test_a_stage_acts_at_the_next_block_that_is_left() -> None:
    prompt = Workload(Phase.PREFILL, 1, 136)
    gone = [Unit(1, Kind.BLOCK), Unit(2, Kind.BLOCK)]
    acting = list_steps(DECODER, scheduled("1=0.5,2=0.25,3=0.1").drop(*gone), prompt)
    assert [(step.block, step.before.sequence, step.after.sequence) for step in acting] == [(3, 136, 46)]
    assert list_steps(DECODER, scheduled("3=0.5").drop(Unit(3, Kind.BLOCK)), prompt) == []
    assert list_steps(DECODER, scheduled("1=0.5"), Workload(Phase.DECODE, 1, 1, 136)) == []


def test_the_work_of_a_reduced_model_is_that_of_its_parts_on_fewer_tokens() -> None:
    prompt, fewer = Workload(Phase.FORWARD, 2, 136), Workload(Phase.FORWARD, 2, 86)
    architecture = scheduled("2=0.5").drop(Unit(3, Kind.ATTENTION))
    (step,) = list_steps(DECODER, architecture, prompt)
    expected = [
        compute_stem_work(DECODER, prompt, "fp16", fewer),
        *(compute_unit_work(DECODER, Unit(0, kind), prompt, "fp16") for kind in PARTS * 2),
        *(compute_unit_work(DECODER, Unit(2, kind), fewer, "fp16") for kind in (*PARTS, Kind.MLP)),
        compute_stage_work(DECODER, step, Reduction(), "fp16"),
    ]
    assert count_flops(DECODER, architecture, prompt) == sum(work.flops for work in expected)
    assert len(list_works(DECODER, architecture, prompt, "fp16")) == len(expected)
    # A decoder's head runs for the 86 tokens that are left; an encoder's output has all 136 again.
    assert compute_stem_work(DECODER, prompt, "fp16", fewer).flops == 2 * 2 * 86 * 80
    assert compute_stem_work(replace(DECODER, causal=False), prompt, "fp16", fewer).flops == 2 * 2 * 136 * 80


def test_ranking_costs_one_query_and_the_keys_and_chance_costs_neither() -> None:
    (step,) = list_steps(DECODER, scheduled("2=0.5"), Workload(Phase.PREFILL, 1, 136))
    ranked = compute_stage_work(DECODER, step, Reduction(), "fp16")
    assert ranked.flops == 2 * 136 * (8 * 4) + 2 * 136 * 8  # keys: 8 to 4 numbers; one query of 2 heads of 4
    assert compute_stage_work(DECODER, step, Reduction(Scorer.RANDOM), "fp16").flops == 0
    assert compute_stage_work(DECODER, step, Reduction(reducer=Reducer.MERGE), "fp16").flops > ranked.flops


def test_the_fit_recovers_a_known_device() -> None:
    device = TokenDevice(noise=0.0005)
    model = calibrated(device)
    found = dict(zip(model.terms.names, model.coefficients, strict=True))
    assert found["mlp"] + found["mlp, tokens"] == pytest.approx(0.95, rel=0.02)
    assert found["mlp, tokens"] == pytest.approx(0.9, rel=0.03)
    attention = [found[name] for name in ("attention", "attention, tokens", "attention, pairs")]
    assert sum(attention) == pytest.approx(0.75, rel=0.02)
    assert attention == pytest.approx(device.attention, abs=0.06)
    assert found["stages"] + found["stage tokens"] == pytest.approx(0.16, abs=0.05)
    assert model.predict_unit_ms(Unit(3, Kind.BLOCK)) == pytest.approx(1.7, rel=0.02)
    assert model.term_ms["attention"] == model.predict_unit_ms(Unit(3, Kind.ATTENTION))


def test_schedules_and_structures_that_were_not_measured_are_predicted() -> None:
    device = TokenDevice()
    model = calibrated(device)
    errors = [abs(model.predict(a).ms / device.compute_ms(a) - 1) for a in random_architectures(5, 200)]
    assert max(errors) < 0.03
    assert float(np.median(errors)) < 0.008
    assert (
        max(abs(device.compute_ms(a.structure) / device.compute_ms(a) - 1) for a in random_architectures(5, 200)) > 0.5
    )


def test_few_exports_are_needed_and_every_term_is_identifiable() -> None:
    schedules = choose_schedules(SPACE, TERMS.compute_row)
    chosen = design_measurements(DEPTH, row=TERMS.compute_row, schedules=schedules)
    assert len(schedules) == len(set(schedules)) == 8
    assert len(chosen) == len(set(chosen)) == 30
    assert {a.tokens for a in chosen} == {*schedules, Architecture.parent(DEPTH).tokens}
    assert all(SPACE.contains(SPACE.parent.replace_tokens(schedule)) for schedule in schedules)
    rows = np.array([TERMS.compute_row(architecture) for architecture in chosen])
    assert np.linalg.matrix_rank(rows) == rows.shape[1]
    assert sum(a.reduction is not None and a.structure != SPACE.parent for a in chosen) >= 5
    assert choose_schedules(replace(SPACE, choices=SPACE.structure), TERMS.compute_row) == []


def test_without_schedules_nothing_changes_and_with_them_all_tokens_count_one() -> None:
    plain, parent = Terms(SHAPE, HERE), Architecture.parent(DEPTH)
    assert Terms.over(SHAPE, HERE, design_measurements(DEPTH)) == plain
    assert Terms.over(SHAPE, HERE, [parent, alone(make_stage_choice(Stage(3, 500)))]) == TERMS
    assert plain.names == TERMS.names[: len(plain.names)]
    for structure in design_measurements(DEPTH):
        few, many = plain.compute_row(structure), TERMS.compute_row(structure)
        assert list(few[: len(plain.names)]) == list(many[: len(plain.names)])
        attentions, mlps = few[3:5]
        assert many[5 : len(TERMS.names)] == pytest.approx([attentions, mlps, attentions, 0, 0])


def test_a_profile_without_schedules_says_that_it_knows_nothing_of_them() -> None:
    model = CalibratedModel(TokenDevice().profile(design_measurements(DEPTH)))
    reduced = alone(make_stage_choice(Stage(3, 500)))
    assert model.predict(reduced).extrapolated
    assert model.predict(reduced).ms == pytest.approx(TokenDevice().compute_ms(reduced.structure), rel=0.02)
    assert model.predict_unit_ms(make_stage_choice(Stage(3, 500))) == 0


def models() -> list[LatencyModel]:
    return [DataSheetModel(find_target("jetson-orin"), SHAPE, HERE), calibrated(TokenDevice())]


@pytest.mark.parametrize("model", models(), ids=["data sheet", "calibrated"])
def test_marginal_savings_of_a_closed_set_telescope(model: LatencyModel) -> None:
    saves = model.predict_savings(SPACE.choices, REDUCTION)
    assert set(saves) == set(SPACE.choices)
    tokens = [unit for unit in SPACE.choices if unit.kind is Kind.TOKENS]
    for unit in tokens:  # of one stage the sum is what it saves alone
        closed = [other for other in tokens if alone(unit).drops(other)]
        assert sum(saves[other] for other in closed) == pytest.approx(model.predict_unit_ms(unit))
    assert saves[Unit(3, Kind.MLP).dropped] == model.predict_unit_ms(Unit(3, Kind.MLP))
    # Of several stages it is what they save together, but for what all but one of them cost by themselves.
    both = alone(make_stage_choice(Stage(3, 500))).drop(make_stage_choice(Stage(7, 250)))
    together = sum(saves[other] for other in tokens if both.drops(other))
    saved = model.predict(SPACE.parent).ms - model.predict(both).ms
    assert together == pytest.approx(saved, rel=0.05)
    assert together < sum(model.predict_unit_ms(unit) for unit in both.choices)


def test_marginal_savings_are_the_second_difference_over_block_and_ratio() -> None:
    """Block ranges times steps of the ratio, worked out for a device that costs nothing but tokens."""
    device = TokenDevice(attention=(0.0, 0.5, 0.0), mlp=(0.0, 0.5), stage=(0.0, 0.0), noise=1e-6)
    saves = calibrated(device).predict_savings(SPACE.choices)
    for block, (more, fewer) in itertools.product((1, 3, 9), ((1000, 750), (750, 500), (250, 125))):
        blocks = 2 if block < 11 else 1  # until the next stage that the space has
        assert saves[make_stage_choice(Stage(block, fewer))] == pytest.approx(blocks * (more - fewer) / 1000, rel=0.02)


def test_caches_shrink_by_stage_and_the_peak_is_where_most_is_alive() -> None:
    plain, reduced = Architecture.parent(4), scheduled("1=0.5,3=0.25")
    for workload, held in (
        (Workload(Phase.PREFILL, 1, 136), 136 + 86 + 50 + 61),  # block 2 has a window of 50
        (Workload(Phase.DECODE, 1, 1, 135), 136 + (36 + 49 + 1) + 50 + (36 + 24 + 1)),  # of 99: 49 and 24 stay
    ):
        assert compute_memory(DECODER, plain, workload, "fp16").cache == 2 * 2 * 4 * (136 + 136 + 50 + 136)
        assert compute_memory(DECODER, reduced, workload, "fp16").cache == 2 * 2 * 4 * held
    prompt = Workload(Phase.PREFILL, 1, 136)
    whole, fewer = (compute_memory(DECODER, architecture, prompt, "fp16") for architecture in (plain, reduced))
    assert fewer.weights == whole.weights
    assert fewer.activations == whole.activations  # block 0
    early = compute_memory(DECODER, scheduled("0=0.5"), prompt, "fp16").activations
    assert early == compute_memory(DECODER, plain, replace(prompt, sequence=86), "fp16").activations


def test_shapes_of_earlier_releases_still_load() -> None:
    document = json.loads(json.dumps(SHAPE.to_json()))
    assert "droppable" not in document
    assert ModelShape.from_json(document) == SHAPE
    known = replace(SHAPE, droppable=576)
    assert ModelShape.from_json(json.loads(json.dumps(known.to_json()))) == known
