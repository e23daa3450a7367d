"""Products of eight bits: on processors without VNNI, ONNX Runtime's saturate, and files compute something else."""

from functools import cache

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


@cache
def saturates() -> bool:
    """Whether the largest inputs times the largest weights are less here than they are."""
    weights = np.full((64, 8), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["given", "weights"], ["product"])], "product",
        [helper.make_tensor_value_info("given", TensorProto.UINT8, [4, 64])],
        [helper.make_tensor_value_info("product", TensorProto.INT32, [4, 8])],
        [numpy_helper.from_array(weights, "weights")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    given = np.full((4, 64), 255, np.uint8)
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"given": given})
    return bool((found != given.astype(np.int64) @ weights).any())
