"""Edited graphs of adjusted models: what the model computes, with the nodes of the graph that was only cut."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from families import build, example

from latency_models.workload import Phase
from nas.export.exporters import EXPORTERS
from nas.export.graph_editing import ParentGraph
from nas.export.parity import check_parity
from pruning.anatomy.anatomy import read_anatomy
from pruning.compensation.candidate_builder import CandidateBuilder, CompensationPlan, list_adjusted
from search_spaces import Architecture, Choice, Kind, Unit


@pytest.mark.parametrize("runtime", EXPORTERS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bert", "vit", "opt", "phi"])
def test_an_edited_graph_has_the_adjusted_weights_and_no_other_node(family: str, runtime: str, tmp_path: Path) -> None:
    parent = build(family)
    anatomy, inputs = read_anatomy(parent), example(parent, batch=16)
    EXPORTERS[runtime].export(parent, tmp_path / "parent.onnx", Phase.FORWARD)
    graph = ParentGraph.read(tmp_path / "parent.onnx", anatomy, parent)
    architecture = Architecture(4).drop(Unit(1, Kind.MLP), Unit(2, Kind.ATTENTION))
    candidate = CandidateBuilder(parent, anatomy, CompensationPlan("refit", inputs, inputs)).build(architecture)
    adjusted = list_adjusted(candidate)
    assert adjusted
    plain = graph.derive(architecture, tmp_path / "plain.onnx")
    edited = graph.derive(architecture, tmp_path / "edited.onnx", adjusted)
    check_parity(candidate, edited, Phase.FORWARD)
    assert kinds_of_nodes(edited) == kinds_of_nodes(plain)
    assert bytes_of_weights(edited) == bytes_of_weights(plain)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_edited_graph_has_weights_that_were_rounded_by_their_products(
    family: str, export_parent: Any, tmp_path: Path
) -> None:
    exported = export_parent(family)
    parent, anatomy, inputs = exported.model, exported.anatomy, example(exported.model, batch=16)
    texts = ("attention.0", "mlp.1:bits=w4", "attention.2:bits=w4", "mlp.3:bits=int8", "head:bits=w4")
    architecture = Architecture(4).drop(*map(Choice.parse, texts))
    candidate = CandidateBuilder(parent, anatomy, CompensationPlan("refit", inputs, inputs)).build(architecture)
    edited = exported.graph.derive(architecture, tmp_path / "edited.onnx", list_adjusted(candidate))
    assert check_parity(candidate, edited, Phase.FORWARD) < 0.05  # int8 has one scale for all


def kinds_of_nodes(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def bytes_of_weights(path: Path) -> int:
    return sum(int(np.prod(tensor.dims)) * 4 for tensor in onnx.load(str(path)).graph.initializer)
