"""Linear modules that compute what a runtime does with weights of fewer bits (fake quantisation).

Weights and inputs are rounded to the numbers that the runtime has, and multiplied in the precision of the model. The
rounding is that of ONNX Runtime: `MatMulNBits` with int8 compute, and `DynamicQuantizeMatMul`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pruning.inference.widening import widen_tensor
from pruning.surgery.linear import get_weight_matrix
from search_spaces.weight_formats import WeightFormat


class QuantisedLinear(nn.Linear):
    """Keeps the weights it was made from (out, in), and multiplies with what the format makes of them.

    Example:
        >>> QuantisedLinear.of(nn.Linear(64, 8), FORMATS["w4"])(torch.ones(2, 64)).shape
        torch.Size([2, 8])
    """

    def __init__(self, inputs: int, outputs: int, bias: bool, format: WeightFormat) -> None:
        """Weights are set later (`of`)."""
        super().__init__(inputs, outputs, bias)
        self.format = format
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
        return made.train(module.training)

    def forward(self, given: Tensor) -> Tensor:
        """The product of rounded inputs (…, in) and rounded weights; gradients pass through the rounding."""
        weights = self.get_rounded_weights()
        if torch.is_grad_enabled():
            weights = self.weight + (weights - self.weight).detach()
        return nn.functional.linear(self.round_given(given), weights, _widen(self.bias))

    def round_given(self, given: Tensor) -> Tensor:
        """Inputs (…, in) as the product has them."""
        rounded = round_inputs(given.detach().float(), self.format).to(given.dtype)
        return given + (rounded - given).detach() if torch.is_grad_enabled() else rounded

    def get_rounded_weights(self) -> Tensor:
        """(out, in), float32 where the module's are narrower; rounded once, as long as the weights are the same."""
        key = (self.weight.data_ptr(), self.weight._version)
        if self._rounded is None or self._rounded[:2] != key:
            wide = torch.promote_types(self.weight.dtype, torch.float32)
            rounded = round_weights(self.weight.detach().float(), self.format).to(wide)
            self._rounded = (*key, rounded)
        return self._rounded[2]

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"{super().extra_repr()}, format={self.format.name}"


def read_product(module: nn.Module, given: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """(inputs, outputs) of a linear module's call, for those who change its weights before they are rounded."""
    if not isinstance(module, QuantisedLinear):
        return given, output
    rounded = module.round_given(given)
    return rounded, nn.functional.linear(rounded, widen_tensor(module.weight), _widen(module.bias))


def _widen(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else widen_tensor(bias)


def round_weights(matrix: Tensor, format: WeightFormat) -> Tensor:
    """A matrix (out, in) of the numbers that a format has."""
    codes, scales = quantise_weights(matrix, format)
    blocks = codes * scales[..., None]
    return blocks.flatten(1)[:, : matrix.shape[1]]


def quantise_weights(matrix: Tensor, format: WeightFormat) -> tuple[Tensor, Tensor]:
    """Whole numbers (out, blocks, block), the last block filled up with zeros, and their scales (out, blocks).

    Without blocks the largest weight of an output becomes 127. With blocks the largest of a block becomes the end of
    the range that reaches further, −2^(bits−1), and the scale has the opposite sign of it, as ONNX Runtime has it.
    """
    blocks = split_into_blocks(matrix, format.block or matrix.shape[1])
    most = 2 ** (format.bits - 1)
    if format.block is None:
        scales = blocks.abs().amax(-1) / (most - 1)
        low = -(most - 1)
    else:
        largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))[..., 0]
        scales, low = largest / -most, -most
    safe = torch.where(scales == 0, torch.ones_like(scales), scales)
    codes = torch.round(blocks / safe[..., None]).clamp(low, most - 1)
    return codes, scales


def round_inputs(given: Tensor, format: WeightFormat) -> Tensor:
    """Inputs (…, in) as 8-bit numbers give them: by block, or with one scale and zero point for the whole tensor."""
    if format.block is None:
        return _round_with_zero_point(given)
    blocks = split_into_blocks(given, format.block)
    scales = blocks.abs().amax(-1, keepdim=True) / 127
    codes = (blocks / torch.where(scales == 0, torch.ones_like(scales), scales)).round_()
    return codes.mul_(scales).flatten(-2)[..., : given.shape[-1]]


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
