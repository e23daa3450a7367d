"""The design tells every term apart, and what is measured are the files of exactly those architectures."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from families import build

import nas.profiling
from latency_models.fit import CalibratedModel
from latency_models.profile import Profile
from latency_models.runtime_ort import default_threads, environment, open_session
from latency_models.workload import Workload
from nas.export.onnx_export import export_onnx, workload_inputs
from nas.export.variants import ParentGraph
from nas.profiling import design, measure_architectures, profile_host
from nas.shape import shape_of
from pruning.anatomy import read_anatomy
from search_spaces import Architecture
from search_spaces.errors import MeasurementError
from search_spaces.unit import Kind, Unit

HERE = Workload.parse("forward:batch=2,seq=10")


@dataclass(frozen=True)
class Parent:
    model: object
    graph: ParentGraph
    path: Path


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    model, path = build("vit"), tmp_path_factory.mktemp("vit") / "model.onnx"
    export_onnx(model, path)
    return Parent(model, ParentGraph.read(path, read_anatomy(model)), path)


@pytest.mark.parametrize("depth", [1, 2, 4, 12, 32])
def test_the_design_tells_constant_attention_and_mlp_apart(depth: int) -> None:
    chosen = design(depth)
    kept = {kind: [sum(a.keeps(layer, kind) for layer in range(depth)) for a in chosen] for kind in Kind}
    terms = np.array([[1, kept[Kind.ATTENTION][i], kept[Kind.MLP][i]] for i in range(len(chosen))])
    assert np.linalg.matrix_rank(terms) == 3
    assert chosen[0] == Architecture.parent(depth)
    assert len(set(chosen)) == len(chosen)
    extremes = {(depth, depth), (0, 0), (depth, 0), (0, depth)}
    assert extremes <= set(zip(kept[Kind.ATTENTION], kept[Kind.MLP], strict=True))


def test_the_design_tells_two_alternating_classes_of_attention_apart() -> None:
    """Sliding and full attention by turns, as in Gemma: their counts are not a multiple of each other."""
    chosen = design(12)
    counts = [[1, *(sum(a.keeps(i, Kind.ATTENTION) for i in range(s, 12, 2)) for s in (0, 1))] for a in chosen]
    assert np.linalg.matrix_rank(np.array(counts)) == 3


def test_another_seed_gives_other_random_patterns() -> None:
    assert design(12, seed=1) == design(12, seed=1) != design(12, seed=2)


def test_a_profile_holds_the_whole_design_and_can_be_fitted(parent: Parent, tmp_path: Path) -> None:
    shape, shares = shape_of(parent.model, parent.graph.anatomy), []
    profile = profile_host(parent.model, "digest", shape, parent.graph, HERE, seconds=0.3, on_round=shares.append)
    assert [record.architecture for record in profile.records] == design(4)
    assert profile.key == environment(default_threads())
    whole = profile.records[0].measurement
    assert all(record.measurement.sentinel_ms == whole.samples_ms for record in profile.records)
    assert shares[-1] == 1.0
    profile.save(tmp_path / "profile.json")
    fitted = CalibratedModel(Profile.load(tmp_path / "profile.json"))
    assert fitted.predict(design(4)[1]).exact
    other = Architecture(4, frozenset({Unit(3, Kind.MLP)}))
    assert other not in design(4)
    assert not fitted.predict(other).exact


def test_only_a_forward_pass_can_be_measured(parent: Parent) -> None:
    for text in ("decode:batch=1,past=8", "prefill:batch=1,seq=8"):
        with pytest.raises(MeasurementError, match="use forward:batch=N,seq=N"):
            measure_architectures(parent.model, parent.graph, [], Workload.parse(text), seconds=0.1)


def test_large_models_are_measured_in_groups_with_the_parent_in_each(
    parent: Parent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, groups = Architecture.parent(4), []
    measure = nas.profiling.measure_interleaved

    def spy(files, *args, **kwargs):
        groups.append((set(files), kwargs["sentinel"], len(list(tmp_path.glob("*/*.onnx")))))
        return measure(files, *args, **kwargs)

    monkeypatch.setattr(nas.profiling, "measure_interleaved", spy)
    monkeypatch.setattr(nas.profiling, "LOADED_BYTES", 3 * parent.graph.weight_bytes)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    others, shares = design(4)[1:6], []
    records = measure_architectures(
        parent.model, parent.graph, [whole, *others], HERE, seconds=0.0, on_round=shares.append
    )
    assert [record.architecture for record in records] == [whole, *others]
    assert [len(names) for names, _, _ in groups] == [3, 3, 2]  # two and the parent, then the last one
    assert all(sentinel == whole.digest and sentinel in names for names, sentinel, _ in groups)
    assert [there for _, _, there in groups] == [3, 3, 2]  # the files of one group at a time lie on the disk
    assert not list(tmp_path.iterdir())
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_variant_above_the_size_of_one_file_keeps_its_weights_beside_it(
    parent: Parent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    architecture = Architecture.from_words("mlp attn removed attn+mlp")
    inputs = workload_inputs(parent.model, HERE)
    inline = parent.graph.derive(architecture, tmp_path / "inline.onnx")
    monkeypatch.setattr("nas.export.variants.LARGEST_INLINE", 1000)
    for _ in range(2):  # the second time replaces the first
        beside = parent.graph.derive(architecture, tmp_path / "beside.onnx")
    data = tmp_path / "beside.onnx.data"
    assert data.stat().st_size > beside.stat().st_size
    assert beside.stat().st_size + data.stat().st_size < inline.stat().st_size + 4096 * 20  # tensors start on pages
    one, other = (open_session(path, 1).run(None, inputs)[0] for path in (inline, beside))
    assert np.array_equal(one, other)
    assert ParentGraph.read(parent.path, parent.graph.anatomy).weight_bytes == parent.graph.weight_bytes
