"""Whether two ways to compute the same agree, up to rounding."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-3  # of the largest value: both ways do the same arithmetic


def describe_difference(run: Callable[[], Any], expected: Tensor) -> str | None:
    """In what a run differs from what is expected, in words; None where it does not."""
    try:
        actual = get_first_output(run())
    except Exception as error:  # a family's own code, called in a way its authors did not foresee
        return f"it fails ({_get_first_line(error)})"
    if actual.shape != expected.shape:
        return f"it returns {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    scale = expected.float().abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    worst = float(((actual.float() - expected.float()).abs() / scale).nan_to_num().max())
    return None if worst <= TOLERANCE else f"it computes something else (by {worst:.2g} of the largest value)"


def get_first_output(output: Any) -> Tensor:
    """The tensor, or the first of a tuple or of a model's output."""
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    return first


def _get_first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
