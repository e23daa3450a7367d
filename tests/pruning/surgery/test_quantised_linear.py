"""Rounded weights and inputs are those of ONNX Runtime: its quantisers, and its operators on the same numbers."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from eight_bits import saturates
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer
from torch import nn
from transformers.pytorch_utils import Conv1D

from nas.export.quantised_product import build_product, round_value
from pruning.surgery.input_scale import choose_input_scale, keep_input_scale
from pruning.surgery.quantised_linear import (
    QuantisedLinear,
    bypass_rounding,
    quantise_weights,
    round_inputs,
    round_weights,
)
from search_spaces.weight_formats import ALL_FORMATS, FORMATS, FP8, W2, W4A16, W8A8

BLOCKED = [FORMATS["w8"], FORMATS["w4"]]


def draw(*sizes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("format", BLOCKED, ids=lambda each: each.name)
@pytest.mark.parametrize("inputs", [64, 80, 16])
def test_blocks_are_what_the_quantiser_of_the_runtime_makes(format, inputs: int) -> None:
    matrix = draw(24, inputs)
    matrix[3, :32] = 0  # a block of zeros has a scale, too
    config = DefaultWeightOnlyQuantConfig(format.block, True, 4, bits=format.bits)
    packed, scales, _ = DefaultWeightOnlyQuantizer(config).qbits_block_quant(matrix.T.contiguous().numpy())
    codes = packed if format.bits == 8 else np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:2], -1)
    mine, my_scales = quantise_weights(matrix, format)
    expected = (codes.astype(int) - 2 ** (format.bits - 1)) * scales[..., None]
    expected = expected.reshape(24, -1)[:, :inputs]  # what fills up the last block meets no input
    np.testing.assert_allclose((mine * my_scales[..., None]).flatten(1)[:, :inputs], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("format", BLOCKED, ids=lambda each: each.name)
@pytest.mark.parametrize("inputs", [64, 80])
def test_a_module_computes_what_the_operator_does(format, inputs: int) -> None:
    matrix, given = draw(24, inputs), draw(2, 5, inputs, seed=1) * 3
    config = DefaultWeightOnlyQuantConfig(format.block, True, 4, bits=format.bits)
    packed, scales, _ = DefaultWeightOnlyQuantizer(config).qbits_block_quant(matrix.T.contiguous().numpy())
    sizes = {"K": inputs, "N": 24, "bits": format.bits, "block_size": format.block, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", **sizes)
    weights = [numpy_helper.from_array(packed, "b"), numpy_helper.from_array(scales, "s")]
    expected = run([node], weights, given)
    module = nn.Linear(inputs, 24, bias=False)
    module.weight.data = matrix
    with torch.no_grad():
        found = QuantisedLinear.of(module, format)(given)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.skipif(saturates(), reason="without VNNI the operators' sums saturate")
def test_a_dynamic_product_is_what_the_operators_compute() -> None:
    matrix, given = draw(24, 64), draw(2, 5, 64, seed=1) * 3
    codes, scales = quantise_weights(matrix, FORMATS["int8"])
    weights = [
        numpy_helper.from_array(codes[:, 0].T.contiguous().numpy().astype(np.int8), "b"),
        numpy_helper.from_array(scales[:, 0].numpy(), "s"),
    ]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        helper.make_node("MatMulInteger", ["q", "b", "qz"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["qs", "s"], ["ss"]),
        helper.make_node("Mul", ["f", "ss"], ["y"]),
    ]
    expected = run(nodes, weights, given)
    module = nn.Linear(64, 24, bias=False)
    module.weight.data = matrix
    with torch.no_grad():
        found = QuantisedLinear.of(module, FORMATS["int8"])(given)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def run(nodes, weights, given: torch.Tensor, optimise: bool = True) -> np.ndarray:
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(given.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5, 24])],
        weights,
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=10)
    onnx.checker.check_model(proto)
    options = onnxruntime.SessionOptions()
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": given.numpy()})[0]


@pytest.mark.parametrize("inputs", [256, 96])
def test_ternary_weights_lose_nothing_in_two_bits(inputs: int) -> None:
    """The operator gives what the product with the weights themselves does, but for rounded inputs."""
    codes, sizes = draw(24, inputs).sign() * (draw(24, inputs, seed=2).abs() > 0.5), draw(24, 1, seed=3).abs() + 0.1
    module = nn.Linear(inputs, 24, bias=False)
    module.weight.data = codes * sizes
    quantised, given = QuantisedLinear.of(module, W2), draw(2, 5, inputs, seed=1)
    assert torch.equal(quantised.get_rounded_weights(), module.weight)
    nodes, weights = build_product("y", "x", module.weight.detach(), W2)
    nodes.append(helper.make_node("Identity", [nodes[-1].output[0]], ["y"]))
    expected = run(nodes, weights, given)
    with torch.no_grad():
        np.testing.assert_allclose(quantised(given).numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        exact = module(given)
    assert float((torch.as_tensor(expected) - exact).norm() / exact.norm()) < 0.01
    module.weight.data = draw(24, inputs)
    assert not torch.equal(QuantisedLinear.of(module, W2).get_rounded_weights(), module.weight)


@pytest.mark.parametrize("inputs", [64, 96])
@pytest.mark.parametrize("format", [W8A8, FP8, W4A16], ids=lambda each: each.name)
def test_a_module_computes_what_dequantised_weights_do(format, inputs: int) -> None:
    matrix, given = draw(24, inputs), draw(2, 5, inputs, seed=1) * 3
    matrix[3] = 0
    module = nn.Linear(inputs, 24, bias=False)
    module.weight.data = matrix
    scale = 0.04 if format is W8A8 else 0.01  # so that large inputs are cut
    keep_input_scale(module, format, scale)
    before, constants = ([], []) if format is W4A16 else round_value("x", scale, format)
    nodes, weights = build_product("y", before[-1].output[0] if before else "x", matrix, format)
    nodes, weights = [*before, *nodes], [*constants, *weights]
    nodes.append(helper.make_node("Identity", [nodes[-1].output[0]], ["y"]))
    expected = run(nodes, weights, given, optimise=False)
    with torch.no_grad():
        found = QuantisedLinear.of(module, format)(given)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("power", [1, 3])
def test_the_scale_of_inputs_loses_as_little_as_the_best_of_many(power: int) -> None:
    given = draw(500, 64) ** power
    peak = float(given.abs().amax())

    def compute_loss(scale: float) -> float:
        return float((round_inputs(given, W8A8, torch.tensor(scale)) - given).square().sum())

    best = min(compute_loss(peak * share / 100 / 127) for share in range(1, 101))
    assert compute_loss(choose_input_scale(given, W8A8)) < 1.05 * best
    assert choose_input_scale(torch.zeros(4, 4), W8A8) == 1


def test_without_a_scale_of_all_calls_each_has_its_own() -> None:
    module, given = QuantisedLinear.of(nn.Linear(64, 8), W8A8), draw(5, 64)
    peak = given.abs().amax() / 127
    torch.testing.assert_close(module.round_given(given), torch.round(given / peak) * peak)
    module.set_input_scale(0.5)
    torch.testing.assert_close(module.round_given(given), torch.round(given / 0.5) * 0.5)


def test_without_rounding_a_module_is_what_it_was_made_from() -> None:
    plain, given = nn.Linear(64, 8), draw(5, 64)
    module = QuantisedLinear.of(plain, FORMATS["w4"])
    with bypass_rounding(module):
        torch.testing.assert_close(module(given), plain(given))
    assert not torch.allclose(module(given), plain(given))


@pytest.mark.parametrize("format", ALL_FORMATS.values(), ids=lambda each: each.name)
def test_fewer_bits_are_further_off(format) -> None:
    matrix = draw(64, 256)
    error = float((round_weights(matrix, format) - matrix).norm() / matrix.norm())
    assert (
        error
        < {"int8": 0.01, "w8": 0.008, "w4": 0.12, "w2": 0.9, "w8a8": 0.01, "fp8": 0.03, "w4a16": 0.14}[format.name]
    )


def test_new_weights_are_rounded_anew_and_kept_as_they_were_given() -> None:
    module = QuantisedLinear.of(nn.Linear(64, 8), FORMATS["w4"])
    first = module.get_rounded_weights()
    assert module.get_rounded_weights() is first
    module.weight = nn.Parameter(module.weight * 2)
    torch.testing.assert_close(module.get_rounded_weights(), first * 2)
    with torch.no_grad():
        module.weight.mul_(2)
    torch.testing.assert_close(module.get_rounded_weights(), first * 4)


def test_a_turned_module_is_read_as_it_computes() -> None:
    turned = Conv1D(8, 64)
    turned.bias.data.normal_()
    straight = nn.Linear(64, 8)
    straight.weight.data, straight.bias.data = turned.weight.data.T, turned.bias.data
    given = draw(2, 64)
    one, other = (QuantisedLinear.of(each, FORMATS["w8"])(given) for each in (turned, straight))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda each: each.name)
def test_weights_whose_changes_nobody_counts_are_rounded_anew(format) -> None:
    module = QuantisedLinear.of(nn.Linear(64, 8), format)
    with torch.inference_mode():
        other = copy.deepcopy(module)
        other.weight = nn.Parameter(module.weight.clone(), requires_grad=False)
        assert other.weight.is_inference()
        assert torch.equal(other(draw(3, 64)), module(draw(3, 64)))
        other.weight.mul_(2)
        assert torch.equal(other.get_rounded_weights(), 2 * module.get_rounded_weights())


def test_floating_inputs_are_not_cut_and_the_smaller_the_closer() -> None:
    given = draw(500, 64) ** 3
    scale = choose_input_scale(given, FP8)
    assert scale == pytest.approx(float(given.abs().amax()) / 448, rel=2**-8)
    off = (round_inputs(given, FP8, torch.tensor(scale)) - given).abs()
    normal = given.abs() >= 2**-6 * scale
    assert float((off / given.abs())[normal].max()) <= 2**-4 * 1.001  # half of a step of three bits of mantissa
