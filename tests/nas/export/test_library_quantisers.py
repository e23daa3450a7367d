"""Files with weights of fewer bits give what the parent's file gives that ONNX Runtime's own quantisers changed."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from exported_parents import export_parent
from families import example
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from search_spaces import Architecture

__all__ = ["export_parent"]
INT8_COMPUTE = 4


def quantise_by_library(parent: Any, name: str, path: Path) -> Path:
    proto = onnx.load(str(parent.path))
    vocabulary = parent.model.config.vocab_size  # of the head, which stays
    weights = {tensor.name for tensor in proto.graph.initializer if vocabulary not in tensor.dims}
    products = [node for node in proto.graph.node if node.op_type == "MatMul"]
    names = [node.name for node in products if node.input[1] in weights]
    if name == "int8":
        quantize_dynamic(
            parent.path, path, per_channel=True, weight_type=QuantType.QInt8, nodes_to_quantize=names,
            extra_options={"WeightSymmetric": True},
        )  # fmt: skip
        return path
    config = DefaultWeightOnlyQuantConfig(32, True, INT8_COMPUTE, bits=int(name[1:]))
    others = [node.name for node in products if node.name not in names]
    quantiser = MatMulNBitsQuantizer(proto, int(name[1:]), 32, True, INT8_COMPUTE, others, algo_config=config)
    quantiser.process()
    quantiser.model.save_model_to_file(str(path))
    return path


@pytest.mark.parametrize("name", ["w4", "w8", "int8"])
def test_an_edited_file_gives_what_that_of_the_library_does(name: str, export_parent, tmp_path: Path) -> None:
    parent = export_parent("llama")
    chosen = [each for each in parent.anatomy.choices if str(each).endswith(f"={name}") and each.kind.in_blocks]
    assert len(chosen) == 2 * parent.anatomy.depth
    edited = parent.graph.derive(Architecture(parent.anatomy.depth).drop(*chosen), tmp_path / "edited.onnx")
    library = quantise_by_library(parent, name, tmp_path / "library.onnx")
    given = {key: value.numpy() for key, value in example(parent.model, batch=3, tokens=16).items()}
    positions = {"position_ids": np.arange(16)[None].repeat(3, 0), "attention_mask": np.ones((3, 16), np.int64)}
    exact, ours, theirs = (
        session.run(None, {each.name: (positions | given)[each.name] for each in session.get_inputs()})[0]
        for session in map(onnxruntime.InferenceSession, map(str, (parent.path, edited, library)))
    )
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(exact - theirs).max()
