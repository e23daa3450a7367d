"""Weights rounded one input after another, so that later ones make up for what earlier ones lost (GPTQ).

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023. What is
minimised is the error of the products over calibration tokens, not that of each weight. The scales are those of
rounding to the nearest number, and the largest weight of every block stays what it is: rounding the result to the
nearest number gives the result, so that whatever rounds weights again (a loaded folder, an exported file) has these.
"""

import torch
from torch import Tensor

from pruning.compensation.method import LARGEST_GRAM
from pruning.surgery.quantised_linear import quantise_weights
from search_spaces.weight_formats import WeightFormat

_DAMPING = 0.01  # of the mean of the Gram matrix's diagonal, added to it
_ROWS = 4096  # tokens multiplied at a time; sums are in float64
_FEW_BITS = 8  # with fewer, the rounding of weights loses more than that of inputs


def makes_up_for_errors(format: WeightFormat, inputs: int) -> bool:
    """Whether weights of a format, for so many inputs, are rounded by what their products lose; ternary ones never."""
    few = format.block is not None and format.bits < _FEW_BITS and not format.ternary
    return few and inputs**2 * torch.float64.itemsize <= LARGEST_GRAM


def factorise(given: Tensor) -> Tensor:
    """The upper Cholesky factor (k, k) of the inverse of XᵀX, from inputs X (tokens, k); float64."""
    gram = torch.zeros(given.shape[1], given.shape[1], dtype=torch.float64, device=given.device)
    for rows in torch.split(given.float(), _ROWS):
        gram += rows.T @ rows
    mean = gram.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    damped = gram + _DAMPING * mean * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor: Tensor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    return factor


@torch.no_grad()
def round_by_products(matrix: Tensor, format: WeightFormat, factor: Tensor) -> Tensor:
    """A matrix (out, in) of numbers that a format with blocks has.

    Args:
        factor: of the inputs, from `factorise`.
    """
    block = format.choose_block(matrix.shape[1])
    left, upper = matrix.float().clone(), factor.to(torch.float32)
    rounded = torch.zeros_like(left)
    steps, fixed = _find_steps(left, format)
    for begin in range(0, left.shape[1], block):
        inside = slice(begin, min(begin + block, left.shape[1]))
        errors = torch.zeros_like(left[:, inside])
        for offset, column in enumerate(range(inside.start, inside.stop)):
            rounded[:, column] = _round_column(left[:, column], steps[:, column], fixed[:, column], format)
            errors[:, offset] = (left[:, column] - rounded[:, column]) / upper[column, column]
            later = slice(column + 1, inside.stop)
            left[:, later] -= torch.outer(errors[:, offset], upper[column, later])
        left[:, inside.stop :] -= errors @ upper[inside, inside.stop :]
    return rounded.to(matrix.dtype)


def _find_steps(matrix: Tensor, format: WeightFormat) -> tuple[Tensor, Tensor]:
    """Of every weight (out, in) the scale, and the number that the largest of its block stays; 0 for the others."""
    codes, scales = quantise_weights(matrix, format)
    largest = codes.abs().argmax(-1, keepdim=True)
    fixed = torch.zeros_like(codes).scatter(-1, largest, codes.gather(-1, largest))
    width = matrix.shape[1]
    return scales[..., None].expand(codes.shape).flatten(1)[:, :width], fixed.flatten(1)[:, :width]


def _round_column(weights: Tensor, steps: Tensor, fixed: Tensor, format: WeightFormat) -> Tensor:
    most = 2 ** (format.bits - 1)
    codes = torch.round(weights / torch.where(steps == 0, torch.ones_like(steps), steps))
    return torch.where(fixed != 0, fixed, codes.clamp(-most if format.full_range else 1 - most, most - 1)) * steps
