"""A parent's graph whose weights stay in its file gives the files that one with all weights in memory gives."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from families import build, example
from onnx.external_data_helper import uses_external_data

from latency_models.runtime_ort import open_session
from latency_models.workload import Phase, Workload
from nas.export import graph_editing, onnx_export
from nas.export.external_weights import count_bytes, load_in_place
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import export_onnx, make_workload_inputs
from nas.export.shared_weights import PAGE, remove_parent_weights, restore_parent_weights
from pruning.anatomy.anatomy import read_anatomy
from pruning.compensation.compensator import Compensator
from pruning.compensation.method import METHODS
from search_spaces import Architecture

WORDS = "attn+mlp mlp attn attn+mlp"
LARGE = 1024  # bytes


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory):
    """A model and its file, which has its weights beside it."""
    model, path = build("llama"), tmp_path_factory.mktemp("parent") / "parent.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "LARGEST_INLINE", 0)
        export_onnx(model, path)
    assert path.with_name("parent.onnx.data").exists()
    return model, read_anatomy(model), path


def run(path: Path, model) -> np.ndarray:
    inputs = make_workload_inputs(model, Workload(Phase.FORWARD, 2, 9))
    return np.asarray(open_session(path, 1).run(None, inputs)[0])


@pytest.mark.parametrize("largest_inline", [0, 1 << 30], ids=["beside", "inside"])
@pytest.mark.parametrize("adjusts", [False, True], ids=["as dropped", "adjusted"])
def test_a_variant_is_the_one_of_a_graph_in_memory(
    largest_inline: int, adjusts: bool, parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, anatomy, path = parent
    monkeypatch.setattr(graph_editing, "LARGEST_INLINE", largest_inline)
    architecture = Architecture.from_words(WORDS)
    compensator = Compensator(model, anatomy, example(model, batch=8), METHODS["refit"])
    adjusted = compensator.adjust(architecture) if adjusts else ()
    graphs = ParentGraph.read(path, anatomy, model), ParentGraph.read_in_place(path, anatomy, model)
    assert graphs[0].weight_bytes == graphs[1].weight_bytes
    files = [graph.derive(architecture, tmp_path / f"{n}.onnx", adjusted) for n, graph in enumerate(graphs)]
    assert np.array_equal(*(run(file, model) for file in files))
    assert not np.array_equal(run(files[0], model), run(path, model))
    for file in files:
        proto = onnx.load(str(file), load_external_data=False)
        names = {tensor.external_data[0].value for tensor in proto.graph.initializer if uses_external_data(tensor)}
        assert names == (set() if largest_inline else {f"{file.name}.data"})
        lengths = [int(each.value) for t in proto.graph.initializer for each in t.external_data if each.key == "length"]
        data = file.with_name(f"{file.name}.data")
        assert largest_inline or data.stat().st_size == sum(-(-length // PAGE) * PAGE for length in lengths)


def test_no_large_weight_is_in_memory(parent) -> None:
    proto = load_in_place(parent[2])
    assert any(count_bytes(tensor) >= LARGE for tensor in proto.graph.initializer)
    assert all(len(tensor.raw_data) < LARGE for tensor in proto.graph.initializer)


def test_a_reduced_model_is_given_the_weights_that_stay_in_the_parent_s_file(parent) -> None:
    whole, lazy = onnx.load(str(parent[2])), load_in_place(parent[2])
    light = remove_parent_weights(whole, lazy)
    assert light.ByteSize() < whole.ByteSize() // 2
    restored = restore_parent_weights(light, lazy)
    for one, other, left in zip(
        whole.graph.initializer, restored.graph.initializer, lazy.graph.initializer, strict=True
    ):
        assert one.name == other.name
        assert count_bytes(one) == count_bytes(other)
        if uses_external_data(left):
            assert [each.value for each in other.external_data] == [each.value for each in left.external_data]
        else:
            assert other.raw_data == one.raw_data
