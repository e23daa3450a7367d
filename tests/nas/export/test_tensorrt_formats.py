"""Formats of TensorRT: what a candidate computes is what its file does, and engines are built of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from families import build, example
from onnx import numpy_helper

from latency_models.runtime_ort import open_session
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import ONNX_RUNTIME_OPSET, TENSORRT_OPSET, export_onnx
from nas.export.parity import check_parity, choose_tolerance
from nas.export.tensorrt_export import InputRange, build_engine
from nas.parent.parent import load_parent_model
from nas.profiling.format_product import write_product
from pruning.analysis import calibrate_inputs
from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.checkpoint import load, save
from pruning.compensation.candidate_builder import CandidateBuilder, CompensationPlan, list_adjusted
from pruning.kinds import SURGERIES
from pruning.surgery.prune import prune
from pruning.surgery.quantised_linear import QuantisedLinear, round_weights
from search_spaces import Architecture, Choice
from search_spaces.errors import ExportError
from search_spaces.weight_formats import FP8

NAMES = ("w8a8", "w4a16", "fp8")


def quantise_all(anatomy: Anatomy, name: str) -> Architecture:
    chosen = [choice for choice in anatomy.choices if str(choice).endswith(f"={name}")]
    assert len(chosen) >= 2 * anatomy.depth
    return Architecture(anatomy.depth).drop(*chosen)


@dataclass(frozen=True)
class Own:
    """A parent of one test, whose matrices may be given scales, and the graph of its file."""

    model: Any
    anatomy: Anatomy
    graph: ParentGraph

    def calibrate(self) -> "Own":
        calibrate_inputs(self.model, self.anatomy, example(self.model, batch=4))
        return self


@pytest.fixture
def read(export_parent):
    """Gives a family's parent, read anew, as (family, opset): its file is the one that all tests share."""

    def read_own(family: str, opset: int = TENSORRT_OPSET) -> Own:
        model = build(family)
        anatomy = read_anatomy(model)
        return Own(model, anatomy, ParentGraph.read(export_parent(family, opset=opset).path, anatomy, model))

    return read_own


QUICK = [
    ("llama", TENSORRT_OPSET),
    ("llama", ONNX_RUNTIME_OPSET),
    ("gpt2", TENSORRT_OPSET),
    ("bert", ONNX_RUNTIME_OPSET),
]
SLOW = [("gpt2", ONNX_RUNTIME_OPSET), ("bert", TENSORRT_OPSET), ("vit", TENSORRT_OPSET), ("vit", ONNX_RUNTIME_OPSET)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("family", "opset"), [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)])
def test_a_file_computes_what_its_candidate_does(family: str, opset: int, name: str, read, tmp_path: Path) -> None:
    parent = read(family, opset).calibrate()
    architecture = quantise_all(parent.anatomy, name)
    pruned = prune(parent.model, architecture, anatomy=parent.anatomy)
    path = parent.graph.derive(architecture, tmp_path / "model.onnx")
    onnx.checker.check_model(str(path), full_check=opset == TENSORRT_OPSET)
    assert check_parity(pruned, path, tolerance=choose_tolerance(pruned)) < 2e-2
    operators = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert {"MatMulInteger", "MatMulNBits"}.isdisjoint(operators)
    assert ("QuantizeLinear" in operators) == (name != "w4a16")


def test_matrices_that_read_the_same_value_share_its_rounding(read, tmp_path: Path) -> None:
    parent = read("llama").calibrate()
    path = parent.graph.derive(quantise_all(parent.anatomy, "w8a8"), tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(str(path)).graph.node]
    # Of each block: queries, keys and values; the output; gate and up; down. And the head.
    assert operators.count("QuantizeLinear") == 4 * 4 + 1


def test_without_calibration_no_file_is_written(read, tmp_path: Path) -> None:
    architecture = Architecture(4).drop(Choice.parse("mlp.1:bits=w8a8"))
    with pytest.raises(ExportError, match=r"mlp\.1:bits=w8a8: mlp\.\w+ has no scale for its inputs; calibrate"):
        read("llama").graph.derive(architecture, tmp_path / "model.onnx")


def test_in_half_precision_scales_are_half_too(tmp_path: Path) -> None:
    model = build("vit")
    anatomy = read_anatomy(model)
    calibrate_inputs(model, anatomy, example(model, batch=4))
    path = export_onnx(build("vit"), tmp_path / "parent.onnx", TENSORRT_OPSET, dtype=torch.float16)
    graph, kinds = ParentGraph.read(path, anatomy, model), ("attention.1", "mlp.2", "head")
    for name in NAMES:
        architecture = Architecture(4).drop(*(Choice.parse(f"{kind}:bits={name}") for kind in kinds))
        proto = onnx.load(str(graph.derive(architecture, tmp_path / "model.onnx")))
        onnx.checker.check_model(proto, full_check=True)
        assert any(each.data_type == onnx.TensorProto.FLOAT8E4M3FN for each in proto.graph.initializer) == (
            name == "fp8"
        )
        scales = [numpy_helper.to_array(each) for each in proto.graph.initializer if each.name.endswith(".scale")]
        assert {scale.dtype for scale in scales} == {np.dtype(np.float16)}
        assert all((scale > 0).all() for scale in scales)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_shrinks_by_what_is_predicted(name: str, read) -> None:
    parent, choice = read("gpt2").calibrate(), Choice.parse(f"mlp.1:bits={name}")
    whole, edited = (
        sum(len(each.raw_data) for each in parent.graph.edit(Architecture(4).drop(*chosen)).graph.initializer)
        for chosen in ((), (choice,))
    )
    saved = SURGERIES["mlp-bits"].count_saved_bytes(*parent.anatomy.get_place(parent.model, 1), choice.level, 4)
    assert whole - edited == pytest.approx(saved, rel=0.02)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_candidates_have_the_scales_of_their_own_inputs_and_come_back_from_a_folder(
    family: str, read, tmp_path
) -> None:
    own = read(family)
    parent, anatomy, graph = own.model, own.anatomy, own.graph
    inputs, unseen = example(parent, batch=64), example(parent, batch=8, seed=5)
    calibrate_inputs(parent, anatomy, inputs)
    architecture = quantise_all(anatomy, "w8a8").drop(Choice.parse("attention.0"))
    model = CandidateBuilder(parent, anatomy, CompensationPlan("refit", inputs, inputs)).build(architecture)
    plain = prune(parent, architecture, anatomy=anatomy)
    scales, parents = (
        {path: float(m.input_scale) for path, m in each.named_modules() if isinstance(m, QuantisedLinear)}
        for each in (model, plain)
    )
    assert scales.keys() == parents.keys()
    assert min(scales.values()) > 0
    first = next(path for path in scales if "mlp" in path)
    assert scales[first] != parents[first]  # what the first MLP reads is another stream without the attention
    assert len(list_adjusted(model)) == len(scales) - 1  # all but the head, which has the parent's
    save(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(**unseen).logits, model(**unseen).logits)
    path = graph.derive(architecture, tmp_path / "model.onnx", list_adjusted(model))
    assert check_parity(model, path, tolerance=choose_tolerance(model)) < 2e-2


@pytest.mark.parametrize(
    "reference", ["digits-vit", *(pytest.param(each, marks=pytest.mark.slow) for each in ("python-lm", "minilm"))]
)
def test_engines_are_built_of_the_reference_models(reference: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="engines need nas[tensorrt-rtx]")
    parent = load_parent_model(reference)
    calibrate_inputs(parent.model, parent.anatomy, next(parent.dataset.calibration.iterate_batches(2)))
    file = export_onnx(parent.model, tmp_path / "parent.onnx", TENSORRT_OPSET)
    graph, ranges = ParentGraph.read(file, parent.anatomy, parent.model), InputRange((1, 1), (1, 16), (2, 64))
    for name in NAMES:
        architecture = quantise_all(parent.anatomy, name)
        path = graph.derive(architecture, tmp_path / "model.onnx")
        pruned = prune(parent.model, architecture, anatomy=parent.anatomy)
        assert check_parity(pruned, path, tolerance=choose_tolerance(pruned)) < 0.2, name
        capability = "SM89" if name == "fp8" else "SM86"
        build_engine(path, tmp_path / f"{name}.engine", ranges, compute_capability=capability)
        assert (tmp_path / f"{name}.engine").stat().st_size > 10_000


def test_no_engine_of_fp8_is_built_for_a_generation_without_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="engines need nas[tensorrt-rtx]")
    file = write_product(tmp_path / "product.onnx", torch.randn(16, 64), 4, FP8)
    build_engine(file, tmp_path / "ada.engine", compute_capability="SM89")
    with pytest.raises(ExportError, match="built no engine"):
        build_engine(file, tmp_path / "ampere.engine", compute_capability="SM86")


def test_a_file_of_fp8_is_run_as_it_is_written(tmp_path: Path) -> None:
    matrix, given = torch.randn(16, 64), torch.randn(4, 64)
    file = write_product(tmp_path / "product.onnx", matrix, 4, FP8)
    (found,) = open_session(file, 1).run(None, {"given": given.numpy()})
    assert np.allclose(found, given.numpy() @ round_weights(matrix, FP8).numpy().T, atol=1e-4)
