"""A file of one product, with weights in a format or in float32."""

from pathlib import Path

import numpy as np
from torch import Tensor

from nas.export.quantised_product import build_product
from search_spaces.weight_formats import WeightFormat

_OPSET, _IR = 21, 10


def write_product(path: Path, matrix: Tensor, rows: int, format: WeightFormat | None) -> Path:
    """Write a file that multiplies `given` (rows, inputs) with a matrix (outputs, inputs); None is float32."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    if format is not None:
        nodes, weights = build_product("product", "given", matrix, format)
    else:
        weights = [numpy_helper.from_array(np.ascontiguousarray(matrix.numpy().T), "weight")]
        nodes = [helper.make_node("MatMul", ["given", "weight"], ["product"])]
    nodes.append(helper.make_node("Identity", [nodes[-1].output[0]], ["result"]))
    sizes = (("given", matrix.shape[1]), ("result", matrix.shape[0]))
    given, result = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [rows, size]) for n, size in sizes)
    graph = helper.make_graph(nodes, "product", [given], [result], weights)
    imports = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=_IR), str(path))
    return path
