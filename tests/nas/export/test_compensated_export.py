"""Edited graphs of adjusted models: what the model computes, with the nodes of the graph that was only cut."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from eight_bits import saturates
from families import example

from latency_models.workload import Phase
from nas.export.onnx_export import ONNX_RUNTIME_OPSET, TENSORRT_OPSET
from nas.export.parity import check_parity
from pruning.compensation.candidate_builder import CandidateBuilder, CompensationPlan, list_adjusted
from search_spaces import Architecture, Choice, Kind, Unit

NATIVE, PLAIN = ONNX_RUNTIME_OPSET, TENSORRT_OPSET
# Matrices that are stored turned and not, with and without biases, behind norms and before them.
FAST = [("llama", NATIVE), ("gpt2", PLAIN), ("bert", NATIVE), ("vit", NATIVE)]
SLOW = [
    (family, opset)
    for family in ("llama", "gpt2", "gpt_neox", "bert", "vit", "opt", "phi")
    for opset in (NATIVE, PLAIN)
    if (family, opset) not in FAST
]


@pytest.mark.parametrize(("family", "opset"), [*FAST, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)])
def test_an_edited_graph_has_the_adjusted_weights_and_no_other_node(
    family: str, opset: int, export_parent: Any, tmp_path: Path
) -> None:
    exported = export_parent(family, opset=opset)
    parent, anatomy, graph = exported.model, exported.anatomy, exported.graph
    inputs = example(parent, batch=16)
    architecture = Architecture(4).drop(Unit(1, Kind.MLP), Unit(2, Kind.ATTENTION))
    candidate = CandidateBuilder(parent, anatomy, CompensationPlan("refit", inputs, inputs)).build(architecture)
    adjusted = list_adjusted(candidate)
    assert adjusted
    plain = graph.derive(architecture, tmp_path / "plain.onnx")
    edited = graph.derive(architecture, tmp_path / "edited.onnx", adjusted)
    check_parity(candidate, edited, Phase.FORWARD)
    assert kinds_of_nodes(edited) == kinds_of_nodes(plain)
    assert bytes_of_weights(edited) == bytes_of_weights(plain)


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_an_edited_graph_has_weights_that_were_rounded_by_their_products(
    family: str, export_parent: Any, tmp_path: Path
) -> None:
    exported = export_parent(family)
    parent, anatomy, inputs = exported.model, exported.anatomy, example(exported.model, batch=16)
    whole = "w8" if saturates() else "int8"
    texts = ("attention.0", "mlp.1:bits=w4", "attention.2:bits=w4", f"mlp.3:bits={whole}", "head:bits=w4")
    architecture = Architecture(4).drop(*map(Choice.parse, texts))
    candidate = CandidateBuilder(parent, anatomy, CompensationPlan("refit", inputs, inputs)).build(architecture)
    edited = exported.graph.derive(architecture, tmp_path / "edited.onnx", list_adjusted(candidate))
    assert check_parity(candidate, edited, Phase.FORWARD) < 0.05  # int8 has one scale for all


def kinds_of_nodes(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def bytes_of_weights(path: Path) -> int:
    return sum(int(np.prod(tensor.dims)) * 4 for tensor in onnx.load(str(path)).graph.initializer)
