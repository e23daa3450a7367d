"""Linear modules that compute what a runtime does with weights of fewer bits (fake quantisation).

Weights and inputs are rounded to the numbers that the runtime has, and multiplied in the precision of the model. The
rounding is that of ONNX Runtime (`MatMulNBits` with int8 compute, and `DynamicQuantizeMatMul`) and of the operators
that TensorRT reads (`QuantizeLinear`, `DequantizeLinear`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pruning.inference.widening import widen_tensor
from pruning.surgery.input_scale import get_input_scale
from pruning.surgery.linear import get_weight_matrix
from search_spaces.weight_formats import LARGEST_FLOATING, Inputs, WeightFormat


class QuantisedLinear(nn.Linear):
    """Keeps the weights it was made from (out, in), and multiplies with what the format makes of them.

    Where inputs have one scale for all calls, it is a buffer, `input_scale`, which is saved with the weights. As long
    as that is zero, nothing was calibrated, and each call has a scale of its own.

    Example:
        >>> QuantisedLinear.of(nn.Linear(64, 8), FORMATS["w4"])(torch.ones(2, 64)).shape
        torch.Size([2, 8])
    """

    input_scale: Tensor | None

    def __init__(self, inputs: int, outputs: int, bias: bool, format: WeightFormat) -> None:
        """Weights are set later (`of`)."""
        super().__init__(inputs, outputs, bias)
        self.format, self.exact = format, False  # whether nothing is rounded
        self.register_buffer("input_scale", torch.zeros(()) if format.inputs is Inputs.FIXED else None)
        self._rounded: tuple[int, int, Tensor] | None = None  # of which weights, and what they became

    @classmethod
    @torch.no_grad()
    def of(cls, module: nn.Module, format: WeightFormat) -> "QuantisedLinear":
        """A linear module in a format; it shares weights and bias where these are (out, in) already."""
        matrix, original = get_weight_matrix(module), module
        outputs, inputs = matrix.shape
        bias: Any = getattr(original, "bias", None)
        with torch.device("meta"):
            made = cls(inputs, outputs, bias is not None, format)
        same: Any = original
        made.weight = same.weight if matrix is same.weight else nn.Parameter(matrix.contiguous(), matrix.requires_grad)
        made.bias = bias
        if format.inputs is Inputs.FIXED:
            made.set_input_scale(get_input_scale(original, format))
        return made.train(module.training)

    def forward(self, given: Tensor) -> Tensor:
        """The product of rounded inputs (…, in) and rounded weights; gradients pass through the rounding."""
        if self.exact:
            return self._multiply_exactly(given)
        weights = self.get_rounded_weights()
        if torch.is_grad_enabled():
            weights = self.weight + (weights - self.weight).detach()
        return nn.functional.linear(self.round_given(given), weights, _widen(self.bias))

    def _multiply_exactly(self, given: Tensor) -> Tensor:
        if given.dtype == self.weight.dtype:
            return nn.functional.linear(given, self.weight, self.bias)
        return nn.functional.linear(given, widen_tensor(self.weight), _widen(self.bias))

    def set_input_scale(self, scale: float) -> None:
        """Let inputs have this scale in all calls; of a format whose inputs have a fixed one."""
        self.input_scale = torch.tensor(scale, device=self.weight.device)

    def round_given(self, given: Tensor) -> Tensor:
        """Inputs (…, in) as the product has them."""
        if self.format.inputs is Inputs.EXACT:
            return given
        rounded = round_inputs(given.detach().float(), self.format, self.input_scale).to(given.dtype)
        return given + (rounded - given).detach() if torch.is_grad_enabled() else rounded

    def get_rounded_weights(self) -> Tensor:
        """(out, in), float32 where the module's are narrower; rounded once, as long as the weights are the same."""
        if self.weight.is_inference():  # whose changes nobody counts
            return self._round_weights()
        key = (self.weight.data_ptr(), self.weight._version)
        if self._rounded is None or self._rounded[:2] != key:
            self._rounded = (*key, self._round_weights())
        return self._rounded[2]

    def _round_weights(self) -> Tensor:
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        return round_weights(self.weight.detach().float(), self.format).to(wide)

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"{super().extra_repr()}, format={self.format.name}"


@contextmanager
def bypass_rounding(model: nn.Module) -> Iterator[None]:
    """A model whose linear modules of fewer bits multiply without any rounding, until it is left."""
    modules = [module for module in model.modules() if isinstance(module, QuantisedLinear)]
    for module in modules:
        module.exact = True
    try:
        yield
    finally:
        for module in modules:
            module.exact = False


def read_product(module: nn.Module, given: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """(inputs, outputs) of a linear module's call, for those who change its weights before they are rounded."""
    if not isinstance(module, QuantisedLinear):
        return given, output
    rounded = module.round_given(widen_tensor(given))
    return rounded, nn.functional.linear(rounded, widen_tensor(module.weight), _widen(module.bias))


def _widen(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else widen_tensor(bias)


def round_weights(matrix: Tensor, format: WeightFormat) -> Tensor:
    """A matrix (out, in) of the numbers that a format has."""
    codes, scales = quantise_weights(matrix, format)
    blocks = codes * scales[..., None]
    return blocks.flatten(1)[:, : matrix.shape[1]]


def quantise_weights(matrix: Tensor, format: WeightFormat) -> tuple[Tensor, Tensor]:
    """Numbers (out, blocks, block), whole ones or of E4M3, the last block filled up with zeros, and their scales
    (out, blocks).

    Without blocks all weights of an output are one block.
    """
    blocks = split_into_blocks(matrix, format.choose_block(matrix.shape[1]))
    if format.floating:
        scales = blocks.abs().amax(-1) / format.largest
        return round_to_floating(blocks / _replace_zeros(scales)[..., None]), scales
    most = 2 ** (format.bits - 1)
    if format.full_range:
        largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))[..., 0]
        scales, low = largest / -most, -most
    else:
        scales, low = blocks.abs().amax(-1) / (most - 1), 1 - most
    codes = torch.round(blocks / _replace_zeros(scales)[..., None]).clamp(low, most - 1)
    return codes, scales


def round_to_floating(values: Tensor) -> Tensor:
    """The nearest numbers of E4M3; what is beyond its largest becomes that."""
    return values.clamp(-LARGEST_FLOATING, LARGEST_FLOATING).to(torch.float8_e4m3fn).to(values.dtype)


def _replace_zeros(scales: Tensor) -> Tensor:
    return torch.where(scales == 0, torch.ones_like(scales), scales)


def loses_nothing(matrix: Tensor, format: WeightFormat) -> bool:
    """Whether all weights of a matrix (out, in) are numbers that the format has."""
    return torch.equal(round_weights(matrix, format), matrix)


def round_inputs(given: Tensor, format: WeightFormat, scale: Tensor | None = None) -> Tensor:
    """Inputs (…, in) as the product has them.

    Args:
        scale: of all calls, where the format has one; None or zero is that of the largest input of this call.
    """
    if format.inputs is Inputs.CALL:
        return _round_with_zero_point(given)
    if format.inputs is Inputs.FIXED:
        return _round_with_scale(given, scale, format)
    if format.inputs is Inputs.EXACT:
        return given
    assert format.block is not None, "inputs are rounded in the blocks of the weights"
    blocks = split_into_blocks(given, format.block)
    scales = blocks.abs().amax(-1, keepdim=True) / 127
    codes = (blocks / torch.where(scales == 0, torch.ones_like(scales), scales)).round_()
    return codes.mul_(scales).flatten(-2)[..., : given.shape[-1]]


def _round_with_scale(given: Tensor, scale: Tensor | None, format: WeightFormat) -> Tensor:
    """As ONNX's QuantizeLinear to int8, without a zero point, or to E4M3."""
    step = given.abs().amax() / format.largest if scale is None or not scale else scale.to(given)
    step = _replace_zeros(step)
    if format.floating:
        return round_to_floating(given / step) * step
    return torch.round(given / step).clamp(-128, 127) * step


def _round_with_zero_point(given: Tensor) -> Tensor:
    """As ONNX's DynamicQuantizeLinear: 0 to 255 from the smallest to the largest value, 0 among them."""
    low, high = torch.aminmax(given)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((-low / scale).clamp(0, 255))
    codes = (given / scale).round_().add_(zero).clamp_(0, 255)  # in place: inputs of many tokens are large
    return codes.sub_(zero).mul_(scale)


def split_into_blocks(values: Tensor, block: int) -> Tensor:
    """(…, n) as (…, blocks, block), with zeros at the end where they do not come out even."""
    missing = -values.shape[-1] % block
    padded = nn.functional.pad(values, (0, missing))
    return padded.reshape(*padded.shape[:-1], -1, block)
