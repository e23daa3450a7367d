"""Linear modules of both orientations, and narrower ones cut out of them."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def is_linear(module: nn.Module) -> bool:
    """Whether a module is one whose weights can be cut: `nn.Linear` or the library's `Conv1D`, no class of its own."""
    return type(module) in (nn.Linear, Conv1D)


def get_weight_matrix(module: nn.Module) -> Tensor:
    """The weights of a linear module as (out, in), a view."""
    weight: Any = module.weight
    matrix: Tensor = weight.T if isinstance(module, Conv1D) else weight
    return matrix


@torch.no_grad()
def keep_outputs(module: nn.Module, kept: Tensor) -> nn.Module:
    """A linear module that gives only these outputs of another, with weights of its own; `kept` are indices."""
    bias: Any = module.bias
    return _make(module, get_weight_matrix(module)[kept], None if bias is None else bias[kept])


@torch.no_grad()
def keep_inputs(module: nn.Module, kept: Tensor) -> nn.Module:
    """A linear module that reads only these inputs of another, with weights of its own; `kept` are indices."""
    bias: Any = module.bias
    return _make(module, get_weight_matrix(module)[:, kept], None if bias is None else bias.clone())


def _make(like: nn.Module, matrix: Tensor, bias: Tensor | None) -> nn.Module:
    """A linear module of the class of another with the weights `matrix` (out, in)."""
    original: Any = like
    outputs, inputs = matrix.shape
    turned = isinstance(like, Conv1D)
    with torch.device("meta"):
        made: nn.Module = Conv1D(outputs, inputs) if turned else nn.Linear(inputs, outputs, bias is not None)
    made.weight = nn.Parameter((matrix.T if turned else matrix).contiguous(), original.weight.requires_grad)
    if bias is not None:
        made.bias = nn.Parameter(bias, original.bias.requires_grad)
    return made.train(like.training)
