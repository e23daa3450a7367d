"""In which arithmetic candidates are compared while they are many; the final choice is always made in fp32."""

from enum import StrEnum
from typing import Any

import torch

from nas.request.choices import AUTO, check_arithmetic
from pruning.inference.device import CPU, find_device, get_device, has_bf16


class Precision(StrEnum):
    """The arithmetic of matrix products: fp32, or bf16 with fp32 residual streams and losses (autocast)."""

    FP32 = "fp32"
    BF16 = "bf16"

    def apply(self, model: Any) -> Any:
        """The model computing in this precision; what is done with its outputs is not affected."""
        return model if self is Precision.FP32 else _Reduced(model)


class _Reduced:
    """A model whose passes run under autocast."""

    def __init__(self, model: Any) -> None:
        self._model, self._device_type = model, get_device(model).type

    def __call__(self, **inputs: Any) -> Any:
        with torch.autocast(self._device_type, dtype=torch.bfloat16):
            return self._model(**inputs)

    @property
    def base_model(self) -> "_Reduced":
        """The trunk in the same precision."""
        return _Reduced(self._model.base_model)


def choose_precision(asked: str, device: torch.device | None = None) -> Precision:
    """The precision that was asked for; `auto` is bf16 where the device has it (about twice as fast), else fp32.

    Args:
        device: None for the CPU.

    Raises:
        UsageError: another word.
    """
    if check_arithmetic(asked) != AUTO:
        return Precision(asked)
    return Precision.BF16 if has_bf16(device or find_device(CPU)) else Precision.FP32
