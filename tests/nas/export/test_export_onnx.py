"""Exported files compute what the model computes, at shapes they were not traced at, in another runtime."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from families import build

from latency_models.runtime_ort import open_session
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import export_onnx, list_input_names
from nas.export.parity import check_parity
from pruning.surgery.prune import prune
from search_spaces import Architecture
from search_spaces.errors import ExportError

PATTERNS = ("mlp attn+mlp attn attn+mlp", "attn+mlp removed mlp removed", "mlp mlp mlp mlp", "attn attn attn attn")
VISION = ("dinov2", "clip", "siglip")
FAST = ("llama", "bert", "vit")
SLOW = ("mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox", "phi", "opt", "mixtral",
        "roberta", "distilbert", "electra", *VISION)  # fmt: skip


@pytest.fixture
def exported(export_parent):
    """(model, anatomy, file) of a family's parent."""

    def parent(family: str):
        made = export_parent(family)
        return made.model, made.anatomy, made.path

    return parent


def families():
    return [*FAST, *(pytest.param(family, marks=pytest.mark.slow) for family in SLOW)]


def texts():
    slow = [pytest.param(family, marks=pytest.mark.slow) for family in SLOW if family not in VISION]
    return ["llama", "bert", *slow]


@pytest.mark.parametrize("family", families())
def test_the_export_equals_the_model_at_other_shapes(family: str, exported) -> None:
    model, _, path = exported(family)
    assert check_parity(model, path) < 1e-4


@pytest.mark.parametrize("family", families())
def test_a_derived_file_equals_the_pruned_model(family: str, exported, tmp_path: Path) -> None:
    model, anatomy, path = exported(family)
    graph = ParentGraph.read(path, anatomy, model)
    nodes = len(onnx.load(str(path)).graph.node)
    for words in PATTERNS:
        architecture = Architecture.from_words(words)
        derived = graph.derive(architecture, tmp_path / "derived.onnx")
        pruned = prune(model, architecture, anatomy=anatomy)
        assert check_parity(pruned, derived) < 1e-4, words
        assert len(onnx.load(str(derived)).graph.node) < nodes
        assert derived.stat().st_size < path.stat().st_size


@pytest.mark.parametrize("family", ["vit", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_pruned_model_exports_itself(family: str, exported, tmp_path: Path) -> None:
    model, anatomy, _ = exported(family)
    pruned = prune(model, Architecture.from_words("mlp attn removed attn+mlp"), anatomy=anatomy)
    path = export_onnx(pruned, tmp_path / "pruned.onnx")
    assert check_parity(pruned, path) < 1e-4
    functions = onnx.load(str(path)).functions
    assert {node.op_type for function in functions for node in function.node} == {"Attention"}


def padded_inputs(model, side: str) -> dict[str, torch.Tensor]:
    ids, mask = torch.randint(3, 96, (2, 14)), torch.ones(2, 14, dtype=torch.long)
    mask[1, :10] = 0
    if side == "right":
        mask = mask.flip(1)
    if model.config.pad_token_id is not None:
        ids[mask == 0] = model.config.pad_token_id
    values = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    return {name: values[name] for name in list_input_names(model)}


@pytest.mark.parametrize("family", texts())
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_gives_the_model_s_output(side: str, family: str, exported) -> None:
    model, _, path = exported(family)
    feed = padded_inputs(model, side)
    with torch.no_grad():
        expected = model(**feed, **({"use_cache": False} if "position_ids" in feed else {}))[0].numpy()
    actual = open_session(path, 1).run(None, {name: tensor.numpy() for name, tensor in feed.items()})[0]
    real = feed["attention_mask"].bool().numpy() if actual.ndim == 3 else ...
    assert np.abs(actual[real] - expected[real]).max() < 1e-4 * max(1.0, np.abs(expected).max())


def test_the_file_names_no_folder_of_the_machine_it_was_made_on(exported) -> None:
    _, _, path = exported("llama")
    written = path.read_bytes()
    assert b"site-packages" not in written
    assert str(Path(__file__).parents[3]).encode() not in written


def test_a_file_of_another_model_is_found_out(exported) -> None:
    _, _, path = exported("llama")
    with pytest.raises(ExportError, match="differs from the model"):
        check_parity(build("llama", seed=5), path)
