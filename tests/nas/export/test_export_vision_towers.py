"""The file of a pruned vision tower: images in, what the language model is given in their places out."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from families import build

from latency_models.runtime_ort import open_session
from latency_models.workload import Workload
from nas.export.graph_editing import ParentGraph
from nas.export.images import check_tower_file
from nas.export.onnx_export import (
    Exportable,
    export_onnx,
    list_input_names,
    list_output_names,
    make_example_inputs,
    make_workload_inputs,
)
from nas.export.parity import check_parity
from nas.parent.shape import read_shape
from pruning.anatomy.anatomy import read_anatomy
from pruning.anatomy.part import select_part
from pruning.surgery.prune import prune
from search_spaces import Architecture
from search_spaces.errors import ExportError


@pytest.mark.slow
def test_the_file_gives_the_features_of_images_and_its_edits_those_of_pruned_towers(tmp_path: Path) -> None:
    model = build("llava")  # whose projector reads the states before the last block
    select_part(model, "vision")
    anatomy = read_anatomy(model)
    path = export_onnx(model, tmp_path / "model.onnx")
    assert check_parity(model, path) < 1e-4
    graph = onnx.load(str(path)).graph
    assert tuple(node.name for node in graph.input) == list_input_names(model) == ("pixel_values",)
    assert tuple(node.name for node in graph.output) == list_output_names(model) == ("image_features",)
    arrays = make_workload_inputs(model, Workload.parse("forward:batch=3,seq=10"))
    (features,) = open_session(path, 1).run(None, arrays)
    with torch.no_grad():
        given = model.get_image_features(pixel_values=torch.from_numpy(arrays["pixel_values"])).pooler_output
    np.testing.assert_allclose(features, torch.stack(given).numpy(), rtol=1e-4, atol=1e-4)
    architecture = Architecture.from_words("mlp removed attn attn+mlp")
    derived = ParentGraph.read(path, anatomy, model).derive(architecture, tmp_path / "small.onnx")
    assert check_parity(prune(model, architecture, anatomy=anatomy), derived) < 1e-4


def test_a_file_takes_images_and_gives_features() -> None:
    model = build("llava")
    select_part(model, "vision")
    assert list_input_names(model) == ("pixel_values",)
    assert list_output_names(model) == ("image_features",)
    given = make_example_inputs(model, 3, 10)
    with torch.no_grad():
        (found,) = Exportable(model)(*given.values())
        wanted = model.get_image_features(**given).pooler_output
    assert torch.equal(found, torch.stack(wanted))


def test_the_shape_is_the_tower_s() -> None:
    """By hand: matrices of 16 x 16 and 16 x 48, patches of 3 x 4 x 4 and a class token, a projector 16 to 32 to 32."""
    model = build("llava")
    select_part(model, "vision")
    shape = read_shape(model, read_anatomy(model))
    assert (shape.depth, shape.hidden, shape.tokens, shape.causal, shape.outputs) == (4, 16, 10, False, 0)
    assert shape.blocks is not None
    assert [(block.attention.weights, block.mlp.dense) for block in shape.blocks[:3]] == [(4 * 16**2, 2 * 16 * 48)] * 3
    assert not shape.blocks[3].parts  # which is not in the file
    embeddings, norms, projector = 16 + 16 * 48 + 10 * 16, 4 * 16, 16 * 32 + 32 + 32 * 32 + 32
    assert shape.stem == embeddings + norms + projector


def test_a_tower_for_images_of_any_size_is_refused_for_files() -> None:
    model = build("qwen2_vl")
    check_tower_file(model)  # whose language model is pruned
    select_part(model, "vision")
    with pytest.raises(ExportError, match="takes images of any size, and its file would need one"):
        check_tower_file(model)
