"""Models with weights of fewer bits, exported anew: the file is the one that an edit of the parent's makes."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from eight_bits import saturates
from exported_parents import export_parent
from families import build, example

from nas.export.onnx_export import TENSORRT_OPSET, export_onnx
from nas.export.parity import check_parity, choose_tolerance
from pruning.analysis import calibrate_inputs
from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.surgery.prune import prune
from pruning.surgery.quantised_linear import QuantisedLinear
from search_spaces import Architecture
from search_spaces.errors import ExportError

__all__ = ["export_parent"]
PRODUCTS = {"MatMulInteger", "MatMulNBits", "QuantizeLinear", "DequantizeLinear", "MatMul", "Gemm"}


def quantise(anatomy: Anatomy, *names: str) -> Architecture:
    """Everything in these formats, which take turns from block to block."""
    chosen = (each for each in anatomy.choices if str(each).endswith(f"={names[each.layer % len(names)]}"))
    return Architecture(anatomy.depth).drop(*chosen)


def list_products(path: Path) -> list[str]:
    return sorted(node.op_type for node in onnx.load(str(path)).graph.node if node.op_type in PRODUCTS)


def count_bytes(path: Path) -> int:
    return sum(len(each.raw_data) for each in onnx.load(str(path)).graph.initializer if len(each.dims) > 1)


def change_weights(model: Any) -> None:
    """As training does: rounding has other numbers afterwards."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, QuantisedLinear):
                module.weight.add_(0.02 * torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_a_file_that_is_exported_anew_has_the_products_of_an_edited_one(
    family: str, export_parent, tmp_path: Path
) -> None:
    parent = export_parent(family)
    architecture = quantise(parent.anatomy, "w8" if saturates() else "int8", "w4", "w8")
    pruned = prune(parent.model, architecture, anatomy=parent.anatomy)
    edited = parent.graph.derive(architecture, tmp_path / "edited.onnx")
    change_weights(pruned)
    anew = export_onnx(pruned, tmp_path / "anew.onnx")
    assert (list_products(anew), count_bytes(anew)) == (list_products(edited), count_bytes(edited))
    assert check_parity(pruned, anew) <= choose_tolerance(pruned)


def test_half_precision_is_for_formats_of_tensorrt(tmp_path: Path) -> None:
    model = build("llama")
    anatomy = read_anatomy(model)
    calibrate_inputs(model, anatomy, example(model, batch=4))
    pruned = prune(model, quantise(anatomy, "w8a8", "w4a16"), anatomy=anatomy)
    change_weights(pruned)
    path = export_onnx(pruned, tmp_path / "half.onnx", TENSORRT_OPSET, dtype=torch.float16)
    assert {"QuantizeLinear", "DequantizeLinear", "MatMul"} <= set(list_products(path))
    assert check_parity(pruned, path, tolerance=2 * choose_tolerance(pruned)) > 0
    other = prune(model, quantise(anatomy, "int8"), anatomy=anatomy)
    with pytest.raises(ExportError, match="weights in int8 are products of float32 inputs; export in fp32"):
        export_onnx(other, tmp_path / "other.onnx", dtype=torch.float16)
