"""Which blocks of a model are alike, so that one of them tells of all: in classes, shapes, constants and arguments."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pruning.anatomy.probe import Arguments, flatten_to_rows

_CONSTANTS = (bool, int, float, str)
_COUNTED = ("training", "layer_idx", "layer_id")  # an index is counted anew, and only finds a layer of the cache


def collect_constants(module: Any) -> dict[str, Any]:
    """The numbers, truths and words that a module keeps as attributes, but for its own index."""
    constants = {key: value for key, value in vars(module).items() if isinstance(value, _CONSTANTS) and key[0] != "_"}
    return {key: value for key, value in constants.items() if key not in _COUNTED}


def describe_form(block: nn.Module, arguments: Arguments, width: int) -> str:
    """A digest of all that a block's structure can depend on; blocks of one form are read once.

    Weights count by their shapes. Of the arguments, tensors count by their values, but for the residual stream, which
    is another one in every block.

    Args:
        arguments: that the block was called with.
        width: of the residual stream.
    """
    hashed = hashlib.sha256()
    for path, module in block.named_modules():
        constants = sorted(collect_constants(module).items())
        shapes = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in _list_own(module)]
        hashed.update(repr((path, type(module).__module__, type(module).__qualname__, constants, shapes)).encode())
    args, kwargs = arguments
    values = [*enumerate(args), *kwargs.items()]
    stream = next((value for _, value in values if flatten_to_rows(value, width) is not None), None)
    for name, value in values:
        hashed.update(repr(name).encode())
        for part in _describe_value(value, stream):
            hashed.update(part)
    return hashed.hexdigest()


def _list_own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _describe_value(value: Any, stream: Any) -> Iterator[bytes]:
    if isinstance(value, tuple | list):
        for each in value:
            yield from _describe_value(each, stream)
    elif isinstance(value, Tensor):
        yield repr((tuple(value.shape), str(value.dtype))).encode()
        if value is not stream:
            yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    else:
        yield repr(value if isinstance(value, (*_CONSTANTS, type(None))) else type(value)).encode()
