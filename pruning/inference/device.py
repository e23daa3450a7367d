"""Where models compute: the one place that knows of devices other than the CPU."""

from typing import Any

import torch
from torch import Tensor, nn

from pruning.anatomy.copying import copy_module
from search_spaces.errors import UsageError

AUTO, CPU, CUDA, MPS = "auto", "cpu", "cuda", "mps"


def find_device(asked: str = CPU) -> torch.device:
    """The device of a name; `auto` is the first CUDA device where there is one, else the CPU.

    Args:
        asked: auto, cpu, cuda, cuda:N or mps.

    Raises:
        UsageError: the device is not here.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if asked == AUTO:
        return torch.device(CUDA, 0) if count_gpus() else torch.device(CPU)
    device = torch.device(asked)
    if device.type == CUDA and (device.index or 0) >= count_gpus():
        raise UsageError(f"device {asked}: torch finds {count_gpus()} CUDA devices here; take auto, or cpu")
    if device.type == MPS and not torch.backends.mps.is_available():
        raise UsageError(f"device {asked}: torch finds no such device here; take auto, or cpu")
    return torch.device(CUDA, device.index or 0) if device.type == CUDA else device


def make_usual(device: torch.device) -> None:
    """Let this process take a CUDA device where code asks for one without a number."""
    if device.type == CUDA:
        torch.cuda.set_device(device)


def count_gpus() -> int:
    """CUDA devices that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies faster in bf16 than in float32."""
    if device.type == CUDA:
        return bool(torch.cuda.is_bf16_supported())
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == CPU else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def choose_sum_device(device: torch.device) -> torch.device:
    """Where sums in float64 are taken: on the device, or on the CPU where it has no such numbers."""
    return torch.device(CPU) if device.type == MPS else device


def get_device(model: nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next((tensor.device for tensor in model.parameters()), torch.device(CPU))


def place(model: Any, device: torch.device) -> Any:
    """A model on a device: itself where its weights are there, else a copy with weights of its own.

    What other models share with this one stays where it is.
    """
    tensors = (*model.parameters(), *model.buffers())
    if all(tensor.device == device for tensor in tensors):
        return model
    return copy_module(model, instead={id(tensor): _move(tensor, device) for tensor in tensors})


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    moved = tensor.detach().to(device)
    return nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
