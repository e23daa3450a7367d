"""The design tells every term apart, and what is measured are the files of exactly those architectures."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from latency_models.calibrated import CalibratedModel
from latency_models.measurement_design import design_measurements
from latency_models.profile import Profile
from latency_models.runner.plan import LOADED_BYTES, Plan
from latency_models.runtime_ort import count_default_threads, open_session, read_environment
from latency_models.shape import ModelShape
from latency_models.terms import Terms
from latency_models.workload import Workload
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import make_workload_inputs
from nas.parent.shape import read_shape
from nas.profiling.effort import Effort
from nas.profiling.host import derive_files, measure_architectures, plan_measurements, profile_host, write_plan
from nas.profiling.host_profile import name_measured
from search_spaces import Architecture, Level, Space
from search_spaces.architecture import drop_from_parent
from search_spaces.kinds import PARTS, STRUCTURE, Kind
from search_spaces.unit import Unit

HERE = Workload.parse("forward:batch=2,seq=10")


@dataclass(frozen=True)
class Parent:
    model: object
    graph: ParentGraph
    path: Path


@pytest.fixture(scope="module")
def parent(export_parent) -> Parent:
    made = export_parent("vit")
    return Parent(made.model, made.graph, made.path)


@pytest.mark.parametrize("depth", [1, 2, 4, 12, 32])
def test_the_design_tells_constant_attention_and_mlp_apart(depth: int) -> None:
    chosen = design_measurements(depth)
    kept = {kind: [sum(a.keeps(layer, kind) for layer in range(depth)) for a in chosen] for kind in STRUCTURE}
    terms = np.array([[1, kept[Kind.ATTENTION][i], kept[Kind.MLP][i]] for i in range(len(chosen))])
    assert np.linalg.matrix_rank(terms) == 3
    assert chosen[0] == Architecture.parent(depth)
    assert len(set(chosen)) == len(chosen)
    extremes = {(depth, depth), (0, 0), (depth, 0), (0, depth)}
    assert extremes <= set(zip(kept[Kind.ATTENTION], kept[Kind.MLP], strict=True))


def test_the_design_tells_two_alternating_classes_of_attention_apart() -> None:
    """Sliding and full attention by turns, as in Gemma: their counts are not a multiple of each other."""
    chosen = design_measurements(12)
    counts = [[1, *(sum(a.keeps(i, Kind.ATTENTION) for i in range(s, 12, 2)) for s in (0, 1))] for a in chosen]
    assert np.linalg.matrix_rank(np.array(counts)) == 3


def test_another_seed_gives_other_random_patterns() -> None:
    assert design_measurements(12, seed=1) == design_measurements(12, seed=1) != design_measurements(12, seed=2)


def test_a_space_with_widths_measures_some_under_a_name_of_its_own() -> None:
    shape = ModelShape(4, 64, 2, 2, 32, 256, False, 10, False, False, 0, (None,) * 4)
    drops = Space.dropping(4, (Unit(layer, kind) for layer in range(4) for kind in PARTS))
    widths = [Unit(layer, Kind.MLP).choose(Level.on("width", 500)) for layer in range(4)]
    narrowing = replace(drops, choices=(*drops.choices, *widths))
    assert plan_measurements(shape, HERE, drops) == plan_measurements(shape, HERE)
    assert any(
        choice in widths
        for architecture in plan_measurements(shape, HERE, narrowing)
        for choice in architecture.choices
    )
    assert len({name_measured(space) for space in (None, drops, narrowing, Space(4, narrowing.choices[:-1]))}) == 3
    assert name_measured(drops) == ""


def test_a_profile_holds_the_whole_design_and_can_be_fitted(parent: Parent, tmp_path: Path) -> None:
    shape, shares = read_shape(parent.model, parent.graph.anatomy), []
    model = SimpleNamespace(model=parent.model, digest="digest", shape=shape)
    profile = profile_host(model, parent.graph, HERE, Effort(0.3), on_round=shares.append)
    assert [record.architecture for record in profile.records] == design_measurements(
        4, row=Terms(shape, HERE).compute_row
    )
    assert profile.key == read_environment(count_default_threads())
    assert len(profile.conditions) == 2
    assert all(len(record.measurement.sessions) == 2 for record in profile.records)
    stem = profile.find_measurement(design_measurements(4)[1])
    assert profile.records[0].measurement.compute_ratio() == 1.0
    assert stem.compute_ratio() < 0.7
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    profile.save(tmp_path / "profile.json")
    fitted = CalibratedModel(Profile.load(tmp_path / "profile.json"))
    assert fitted.predict(design_measurements(4)[1]).exact
    blocks = [drop_from_parent(4, {Unit(layer, Kind.BLOCK)}) for layer in range(4)]
    other = next(architecture for architecture in blocks if profile.find_measurement(architecture) is None)
    assert not fitted.predict(other).exact


def test_architectures_are_measured_beside_the_parent_and_leave_no_files(
    parent: Parent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, others, shares = Architecture.parent(4), design_measurements(4)[1:4], []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    records = measure_architectures(
        parent.model, parent.graph, [*others, whole, others[0]], HERE, Effort(0.0), on_round=shares.append
    )
    assert [record.architecture for record in records] == [whole, *others]
    assert records[0].measurement.compute_ratio() == 1.0
    assert shares[-1] == 1.0
    assert not list(tmp_path.iterdir())


def test_variants_share_one_file_of_weights_and_compute_what_they_did_alone(parent: Parent, tmp_path: Path) -> None:
    architectures = [Architecture.parent(4), Architecture.from_words("mlp attn removed attn+mlp")]
    inputs = make_workload_inputs(parent.model, HERE)
    before = parent.graph.proto.SerializeToString()
    for _ in range(2):  # the second time replaces the first
        files = derive_files(parent.graph, architectures, tmp_path / "models")
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        "weights.data", *(f"{architecture.digest}.onnx" for architecture in architectures)
    }  # fmt: skip
    weights = (tmp_path / "models/weights.data").stat().st_size
    assert weights < parent.path.stat().st_size + 4096 * 100  # tensors start on pages
    assert sum(path.stat().st_size for path in files.values()) < parent.path.stat().st_size
    for architecture in architectures:
        alone = parent.graph.derive(architecture, tmp_path / "alone.onnx")
        one, other = (open_session(path, 1).run(None, inputs)[0] for path in (alone, files[architecture.digest]))
        assert np.array_equal(one, other)
    assert parent.graph.proto.SerializeToString() == before


def test_a_plan_says_what_is_measured_and_the_parent_is_its_sentinel(parent: Parent, tmp_path: Path) -> None:
    shape, others = read_shape(parent.model, parent.graph.anatomy), design_measurements(4)[1:3]
    write_plan(
        tmp_path, target="jetson", precision="fp16", digest="d", shape=shape, workload=HERE, graph=parent.graph,
        architectures=others, inputs=make_workload_inputs(parent.model, HERE), effort=Effort(9.0),
        sessions=3, threads=2,
    )  # fmt: skip
    plan = Plan.read(tmp_path)
    assert (plan.precision, plan.seconds, plan.sessions, plan.threads) == ("fp16", 9.0, 3, 2)
    assert [Architecture.from_json(c.architecture) for c in plan.candidates] == [Architecture.parent(4), *others]
    assert plan.sentinel == Architecture.parent(4).digest
    assert {c.weight_bytes for c in plan.candidates} == {parent.graph.weight_bytes}
    assert plan.document["workload"] == str(HERE)
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "inputs.npz", "run.py", "models", "runner"}


def test_models_that_do_not_fit_side_by_side_are_measured_in_groups_with_the_parent_in_each(
    parent: Parent, tmp_path: Path
) -> None:
    shape, chosen = read_shape(parent.model, parent.graph.anatomy), design_measurements(4)
    write_plan(
        tmp_path, target="host", precision="fp32", digest="d", shape=shape, workload=HERE, graph=parent.graph,
        architectures=chosen, inputs={}, effort=Effort(1.0),
    )  # fmt: skip
    plan, whole = Plan.read(tmp_path), chosen[0].digest
    heavy = replace(plan, candidates=tuple(replace(c, weight_bytes=LOADED_BYTES // 3) for c in plan.candidates))
    for groups, most in ((plan.group_candidates(1), 13), (heavy.group_candidates(1), 3)):
        names = [[candidate.name for candidate in group] for group in groups]
        assert all(group[0] == whole and whole not in group[1:] for group in names)
        assert sorted(name for group in names for name in group[1:]) == sorted(a.digest for a in chosen[1:])
        assert max(map(len, names)) <= most
    assert plan.group_candidates(1) == plan.group_candidates(1) != plan.group_candidates(2)


def test_a_variant_above_the_size_of_one_file_keeps_its_weights_beside_it(
    parent: Parent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    architecture = Architecture.from_words("mlp attn removed attn+mlp")
    inputs = make_workload_inputs(parent.model, HERE)
    inline = parent.graph.derive(architecture, tmp_path / "inline.onnx")
    monkeypatch.setattr("nas.export.graph_editing.LARGEST_INLINE", 1000)
    for _ in range(2):  # the second time replaces the first
        beside = parent.graph.derive(architecture, tmp_path / "beside.onnx")
    data = tmp_path / "beside.onnx.data"
    assert data.stat().st_size > beside.stat().st_size
    assert beside.stat().st_size + data.stat().st_size < inline.stat().st_size + 4096 * 20  # tensors start on pages
    one, other = (open_session(path, 1).run(None, inputs)[0] for path in (inline, beside))
    assert np.array_equal(one, other)
    assert ParentGraph.read(parent.path, parent.graph.anatomy, parent.model).weight_bytes == parent.graph.weight_bytes
