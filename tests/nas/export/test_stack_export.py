"""Files of encoder and decoder: exported, edited, and together the model; phases with a cache are refused."""

import numpy as np
import pytest
import torch
from families import build, build_shallow, example

from latency_models.runtime_ort import open_session
from latency_models.workload import Phase
from nas.export.cached_export import read_cache_layers
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import TENSORRT_OPSET, export_onnx
from nas.export.parity import check_parity
from pruning import prune, read_anatomy
from pruning.anatomy.part import select_part
from search_spaces import Architecture, Kind, Unit
from search_spaces.errors import ExportError


def export(family, part, path, opset=TENSORRT_OPSET, make=build):
    model = make(family)
    select_part(model, part)
    return model, export_onnx(model, path / f"{part}.onnx", opset)


@pytest.mark.parametrize("family", ["t5", pytest.param("whisper", marks=pytest.mark.slow)])
@torch.no_grad()
def test_both_files_together_are_the_model(family, tmp_path):
    model, encoder = export(family, "encoder", tmp_path, make=build_shallow)
    _, decoder = export(family, "decoder", tmp_path, make=build_shallow)
    given = example(model, batch=3, tokens=8)
    target = given.pop("decoder_input_ids")
    expected = model(**given, decoder_input_ids=target).logits
    sessions = [open_session(file, 1) for file in (encoder, decoder)]
    names = [{node.name for node in session.get_inputs()} for session in sessions]
    masks = {"attention_mask": np.ones((3, 8), np.int64)} if "input_ids" in given else {}
    source = {name: value.numpy() for name, value in given.items()} | masks
    assert names[0] == source.keys()
    (states,) = sessions[0].run(None, source)
    fed = {"input_ids": target.numpy(), "encoder_hidden_states": states}
    fed |= {f"encoder_{name}": mask for name, mask in masks.items()}
    assert names[1] == fed.keys()
    (logits,) = sessions[1].run(None, fed)
    assert np.abs(logits - expected.numpy()).max() < 1e-4


def test_an_edited_file_computes_what_the_pruned_decoder_does(tmp_path):
    model, file = export("bart", "decoder", tmp_path)
    anatomy = read_anatomy(model)
    graph = ParentGraph.read(file, anatomy, model)
    for dropped in ((Unit(1, Kind.CROSS_ATTENTION), Unit(2, Kind.MLP)), (Unit(1, Kind.BLOCK),)):
        architecture = Architecture.parent(anatomy.depth).drop(*dropped)
        edited = graph.derive(architecture, tmp_path / "edited.onnx")
        assert check_parity(prune(model, architecture, anatomy=anatomy), edited) < 1e-4, dropped


def test_phases_with_a_cache_are_refused_in_one_line():
    for phase in (Phase.PREFILL, Phase.DECODE):
        with pytest.raises(ExportError, match="without a cache; use forward"):
            read_cache_layers(build("bart"), phase)
