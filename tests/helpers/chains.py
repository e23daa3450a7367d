"""Graphs whose work is known by construction: so many matrix products in a row."""

from pathlib import Path

import numpy as np
import onnx

WIDTH = 192
INPUTS = {"x": np.random.default_rng(0).standard_normal((64, WIDTH), dtype=np.float32)}


def chain(path: Path, layers: int) -> Path:
    """Write a graph of `layers` matrix products."""
    weight = np.eye(WIDTH, dtype=np.float32) * 0.5
    names = ["x", *(f"h{i}" for i in range(1, layers)), "y"]
    nodes = [onnx.helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)]
    weights = [onnx.numpy_helper.from_array(weight + i, f"w{i}") for i in range(layers)]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [64, WIDTH]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10), path)
    return path
