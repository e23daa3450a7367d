"""Copies of models to look at structure with: blocks that look alike have the weights of the first of them.

What runs, and what runs without a part of it, does not depend on the values of weights. Such a copy is run as often as
reading a model takes, and of a checkpoint that is larger than the memory only one block of each kind is looked at.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from pruning.anatomy.copying import copy_module
from pruning.inference import residency

_Model = TypeVar("_Model", bound=nn.Module)


def copy_lightly(model: _Model) -> _Model:
    """A copy whose large weights are those of the first like module of a list: of the same class, name, shape and type.

    All other tensors are the model's own. The model itself where no weights are large.

    Example:
        >>> light = copy_lightly(model)
        >>> light.model.layers[5].mlp.up_proj.weight is model.model.layers[0].mlp.up_proj.weight
        True
    """
    first: dict[tuple[int, type, str, torch.Size, torch.dtype], Tensor] = {}
    instead: dict[int, Tensor] = {}
    for modules in (part for part in model.modules() if isinstance(part, nn.ModuleList)):
        for member in modules:
            for name, tensor in member.named_parameters():
                key = (id(modules), type(member), name, tensor.shape, tensor.dtype)
                other = first.setdefault(key, tensor)
                if other is not tensor and tensor.nbytes >= residency.SMALLEST:
                    instead.setdefault(id(tensor), other)
    if not instead:
        return model
    copied = copy_module(model, share_tensors=True, instead=instead)
    residency.stop_streaming(copied)  # it would read the same weights again and again
    return copied
