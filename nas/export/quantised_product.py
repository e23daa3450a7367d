"""Products with weights of fewer bits, in the operators that the runtime of their format fuses."""

from typing import Any

import numpy as np
import torch

from pruning.surgery.quantised_linear import quantise_weights
from search_spaces.weight_formats import TENSORRT, WeightFormat

QDQ_OPSET = 21  # from which on weights of 4 bits and scales in half precision are dequantised
INT8_COMPUTE = 4  # accuracy level of MatMulNBits: inputs are rounded to 8 bits by block


def build_product(
    output: str, given: str, matrix: torch.Tensor, format: WeightFormat, dtype: Any = np.float32
) -> tuple[list[Any], list[Any]]:
    """The nodes of a product and the weights that they read; the last node gives its value.

    Args:
        output: the value that it replaces, from which names are made.
        given: the value (…, in) that is multiplied; of a format with a fixed scale, as `round_value` gives it.
        matrix: (out, in), float32.
        dtype: of the graph's values.
    """
    name = f"{output}.{format.name}"
    if format.runtime == TENSORRT:
        return _build_dequantised_product(name, given, matrix, format, dtype)
    build = _build_dynamic_product if format.block is None else _build_blocked_product
    return build(name, given, matrix, format)


def round_value(given: str, scale: float, format: WeightFormat, dtype: Any = np.float32) -> tuple[list[Any], list[Any]]:
    """Nodes that round a value to 8 bits with one scale, the last of which gives it, and the constants they read."""
    from onnx import helper, numpy_helper

    name = f"{given}.{format.arithmetic}.{scale:.6g}"
    constants = [
        numpy_helper.from_array(np.asarray(scale, dtype), f"{name}.scale"),
        _build_bytes(f"{name}.zero", torch.zeros(()), format),
    ]
    read = [each.name for each in constants]
    nodes = [
        helper.make_node("QuantizeLinear", [given, *read], [f"{name}.whole"]),
        helper.make_node("DequantizeLinear", [f"{name}.whole", *read], [name]),
    ]
    return nodes, constants


def _build_dequantised_product(
    name: str, given: str, matrix: torch.Tensor, format: WeightFormat, dtype: Any
) -> tuple[list[Any], list[Any]]:
    """A product with weights that are expanded: what a runtime makes a product of whole numbers where it can."""
    from onnx import TensorProto, helper, numpy_helper

    codes, scales = quantise_weights(matrix, format)
    columns = codes.flatten(1).T.contiguous()
    steps = scales.T.contiguous().numpy().astype(dtype)
    steps = np.maximum(steps, np.finfo(dtype).smallest_subnormal)  # TensorRT takes no scale of zero
    if format.bits == 4:
        packed = _pack_signed(columns.numpy().astype(np.int8))
        whole = helper.make_tensor(f"{name}.weight", TensorProto.INT4, columns.shape, packed, raw=True)
        how = {"axis": 0, "block_size": format.choose_block(matrix.shape[1])}
    else:
        whole, how = _build_bytes(f"{name}.weight", columns, format), {"axis": 1}
        steps = steps[0]
    weights = [whole, numpy_helper.from_array(steps, f"{name}.scale")]
    nodes = [
        helper.make_node("DequantizeLinear", [each.name for each in weights], [f"{name}.expanded"], **how),
        helper.make_node("MatMul", [given, f"{name}.expanded"], [name]),
    ]
    return nodes, weights


def _build_bytes(name: str, codes: torch.Tensor, format: WeightFormat) -> Any:
    """Numbers of a format with eight bits, as a tensor of a graph."""
    from onnx import TensorProto, helper

    kind, dtype = (TensorProto.FLOAT8E4M3FN, torch.float8_e4m3fn) if format.floating else (TensorProto.INT8, torch.int8)
    return helper.make_tensor(name, kind, codes.shape, codes.to(dtype).view(torch.uint8).numpy().tobytes(), raw=True)


def _pack_signed(codes: np.ndarray) -> bytes:
    """Whole numbers from -8 to 7 as ONNX has them: two in a byte, the first of them low."""
    nibbles = codes.reshape(-1).astype(np.uint8) & 15
    nibbles = np.append(nibbles, np.zeros(len(nibbles) % 2, np.uint8))
    return bytes((nibbles[::2] | nibbles[1::2] << 4).tobytes())


def _build_blocked_product(
    name: str, given: str, matrix: torch.Tensor, format: WeightFormat
) -> tuple[list[Any], list[Any]]:
    """ONNX Runtime's MatMulNBits on a processor, its packed weights (out, blocks, bytes) and scales (out, blocks)."""
    from onnx import helper, numpy_helper

    codes, scales = quantise_weights(matrix, format)
    weights = [
        numpy_helper.from_array(_pack(codes, format.bits), f"{name}.weight"),
        numpy_helper.from_array(scales.numpy(), f"{name}.scale"),
    ]
    outputs, inputs = matrix.shape
    node = helper.make_node(
        "MatMulNBits", [given, *(each.name for each in weights)], [name], domain="com.microsoft",
        K=inputs, N=outputs, bits=format.bits, block_size=format.block, accuracy_level=INT8_COMPUTE,
    )  # fmt: skip
    return [node], weights


def _pack(codes: torch.Tensor, bits: int) -> np.ndarray:
    """Whole numbers (out, blocks, block) counted from the lowest, as bytes; of two in a byte the first is low."""
    counted = (codes + 2 ** (bits - 1)).numpy().astype(np.uint8)
    per_byte = 8 // bits
    pieces = counted.reshape(*counted.shape[:2], -1, per_byte)
    packed = np.zeros(pieces.shape[:-1], np.uint8)
    for n in range(per_byte):
        packed |= pieces[..., n] << (bits * n)
    return packed


def _build_dynamic_product(
    name: str, given: str, matrix: torch.Tensor, format: WeightFormat
) -> tuple[list[Any], list[Any]]:
    """Inputs rounded with one scale, a product of whole numbers, and the scales: what ONNX Runtime fuses to one."""
    from onnx import TensorProto, helper, numpy_helper

    codes, scales = quantise_weights(matrix, format)
    columns = codes.flatten(1).T.contiguous().numpy().astype(np.int8)
    weights = [
        numpy_helper.from_array(columns, f"{name}.weight"),
        numpy_helper.from_array(scales[:, 0].numpy(), f"{name}.scale"),
        numpy_helper.from_array(np.zeros(len(matrix), np.int8), f"{name}.zero"),
    ]
    rounded = [f"{name}.given", f"{name}.given scale", f"{name}.given zero"]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", [given], rounded),
        helper.make_node("MatMulInteger", [rounded[0], weights[0].name, rounded[2], weights[2].name], [f"{name}.sum"]),
        helper.make_node("Cast", [f"{name}.sum"], [f"{name}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [rounded[1], weights[1].name], [f"{name}.scales"]),
        helper.make_node("Mul", [f"{name}.float", f"{name}.scales"], [name]),
    ]
    return nodes, weights
