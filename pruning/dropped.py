"""What stands where a dropped part stood."""

from typing import Any

import torch
from torch import Tensor, nn


class Dropped(nn.Module):
    """Contributes nothing: returns a zero-dimensional zero in the form the part returned its output.

    `residual + 0` leaves the residual stream exactly as it was, costs nothing that matters and is folded away
    when the model is exported.
    """

    def __init__(self, arity: int) -> None:
        """`arity` 0 for a part that returned a tensor, n for one that returned a tuple of n."""
        super().__init__()
        self.arity = arity

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """A zero of the first floating-point input's type and device; the other outputs are None."""
        zero = torch.zeros((), dtype=_dtype(args, kwargs), device=_device(args, kwargs))
        return (zero, *(None,) * (self.arity - 1)) if self.arity else zero

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"arity={self.arity}"


def _floating(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    values = (*args, *kwargs.values())
    return next((value for value in values if isinstance(value, Tensor) and value.is_floating_point()), None)


def _dtype(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.dtype | None:
    found = _floating(args, kwargs)
    return None if found is None else found.dtype


def _device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
    found = _floating(args, kwargs)
    return None if found is None else found.device
