"""Weights stay as narrow as they are stored, and are widened while they are used.

A checkpoint in bf16 or fp16 takes half the memory of one in float32, but half-precision arithmetic would change what
is compared. So a module with narrow matrices is shown them in float32 while it runs, and only then. What it computes
is what a model computes that was converted as a whole: exactly, but for matrices that are too large to be widened at
once, whose outputs are computed in tiles. Vectors and convolutions are few numbers, and are converted for good.
"""

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from pruning.anatomy.copying import copy_module

NARROW = (torch.bfloat16, torch.float16)
_TILE = 1 << 22  # weights of a large matrix that are widened at a time
_LARGE = 1 << 25  # weights: the matrices of blocks are smaller, heads of large vocabularies are not
_FORWARD = "forward"
_MATRIX = 2  # dimensions
_CONVERTED = (_ConvNd, nn.MultiheadAttention, NonDynamicallyQuantizableLinear)  # whose weights others take, or ask for


def widen(module: nn.Module) -> nn.Module:
    """Let all modules with narrow weights compute in float32, in place; the module itself is returned.

    Under autocast, products of linear modules stay as narrow as it makes them.

    Example:
        >>> model = widen(nn.Linear(8, 8, dtype=torch.bfloat16))
        >>> model(torch.ones(1, 8)).dtype, model.weight.dtype
        (torch.float32, torch.bfloat16)
    """
    for part in module.modules():
        for _, _, tensor in _list_narrow(part):
            if tensor.ndim < _MATRIX or isinstance(part, _CONVERTED):
                tensor.data = tensor.data.float()
        if any(True for _ in _list_narrow(part)) and not (_is_widened(part) or hasattr(part, "get_rounded_weights")):
            setattr(part, _FORWARD, _Widened(part))
    return module


def is_widened(module: nn.Module) -> bool:
    """Whether any part of a module computes in float32 with narrow weights."""
    return any(_is_widened(part) for part in module.modules())


def widen_tensor(tensor: Tensor) -> Tensor:
    """A narrow tensor in float32; any other as it is."""
    return tensor.float() if tensor.dtype in NARROW else tensor


def copy_in_float32(model: Any) -> Any:
    """A copy whose weights are float32; what is not narrow is shared. The model itself where nothing is narrow."""
    tensors = [tensor for part in model.modules() for _, _, tensor in _list_narrow(part)]
    if not tensors:
        return model
    return copy_unwidened(model, {id(tensor): _convert(tensor) for tensor in tensors})


def copy_unwidened(model: Any, instead: Mapping[int, Tensor]) -> Any:
    """A copy that shares the tensors of a model but for some, and computes in whatever type its weights have.

    Args:
        instead: what the copy has in the places of tensors, by their identity.
    """
    copied = copy_module(model, share_tensors=True, instead=instead)
    for part in copied.modules():
        if _is_widened(part):
            delattr(part, _FORWARD)
    return copied


def _convert(tensor: Tensor) -> Tensor:
    wide = tensor.detach().float()
    return nn.Parameter(wide, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else wide


def _is_widened(part: nn.Module) -> bool:
    return isinstance(vars(part).get(_FORWARD), _Widened)


def _list_narrow(part: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """Narrow parameters and buffers of a module's own: where they are kept, their name there, and themselves."""
    for held in (part._parameters, part._buffers):
        for name, tensor in held.items():
            if tensor is not None and tensor.dtype in NARROW:
                yield held, name, tensor


class _Widened:
    """The forward method of a module that is shown its narrow weights in float32.

    It does not keep its module alive: copies of models are to be forgotten with the last reference to them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)

    @property
    def module(self) -> nn.Module:
        """Whose method it is."""
        module = self._module()
        assert module is not None, "a module's attribute is called through the module"
        return module

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Widened":
        return _Widened(copy.deepcopy(self.module, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Widened, (self.module,)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The method of the module's class, by which its signature is known."""
        return MethodType(type(self.module).forward, self.module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        narrow = list(_list_narrow(self.module))
        if not narrow:
            return self.__wrapped__(*args, **kwargs)
        if isinstance(self.module, nn.Linear | Conv1D) and torch.is_autocast_enabled(narrow[0][2].device.type):
            return self.__wrapped__(*args, **kwargs)
        if isinstance(self.module, nn.Embedding):
            with _WideRows():
                return self.__wrapped__(*args, **kwargs)
        if type(self.module) is nn.Linear and self.module.weight.numel() > _LARGE:
            return _multiply_in_tiles(self.module, *args, **kwargs)
        try:
            for held, name, tensor in narrow:
                held[name] = tensor.float()
            return self.__wrapped__(
                *map(_widen_value, args), **{key: _widen_value(each) for key, each in kwargs.items()}
            )
        finally:
            for held, name, tensor in narrow:
                held[name] = tensor


class _WideRows(TorchFunctionMode):
    """Within an embedding: only the rows that are looked up are widened, and the table says that it is float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is nn.functional.embedding:
            return widen_tensor(output)
        return torch.float32 if func == _READ_DTYPE and output in NARROW else output


_READ_DTYPE = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]


def _widen_value(value: Any) -> Any:
    return widen_tensor(value) if isinstance(value, Tensor) else value


def _multiply_in_tiles(module: nn.Linear, given: Tensor) -> Tensor:
    """(…, out) of (…, in): so many outputs at a time that their weights are few."""
    given = widen_tensor(given)
    rows = max(1, _TILE // module.in_features)
    output = given.new_empty(*given.shape[:-1], module.out_features)
    for begin in range(0, module.out_features, rows):
        tile = slice(begin, begin + rows)
        bias = None if module.bias is None else module.bias[tile].float()
        output[..., tile] = nn.functional.linear(given, module.weight[tile].float(), bias)
    return output
