"""What stands where a dropped part stood."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Form:
    """How a part returns its output; what stands in its place returns the same form.

    Attributes:
        arity: 0 where it returns a tensor, n where it returns a tuple of n, or a list where it is `listed`.
        stream: which argument (position or name) holds the residual stream, where the part adds itself to it;
            None where the block does the addition.
        full: whether the block needs a zero of the input's shape, because it reshapes it or adds to it in place.

    Example:
        >>> Form(arity=2).wrap(1.0, (), {})
        (1.0, None)
    """

    arity: int = 0
    stream: int | str | None = None
    full: bool = False
    listed: bool = False
    passes: tuple[tuple[int, int | str], ...] = ()

    def find_stream(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The residual stream among the arguments of a call; None where the block does the addition."""
        if self.stream is None:
            return None
        return _get_argument(self.stream, args, kwargs)

    def wrap(self, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A value as the part returns it when it is called with these arguments; other outputs are None."""
        if not self.arity:
            return value
        passed = {at: _get_argument(name, args, kwargs) for at, name in self.passes}
        return (list if self.listed else tuple)((value, *(passed.get(at) for at in range(1, self.arity))))


def _get_argument(name: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An argument by position or name; None where it was left out."""
    if isinstance(name, str):
        return kwargs.get(name)
    return args[name] if name < len(args) else None


class Dropped(nn.Module):
    """Contributes nothing.

    Where the block adds the contribution, it returns a zero: one of no dimensions if the block can do with it, since
    `residual + 0` is exact, costs nothing that matters and is folded away when the model is exported. A part that
    added itself to the residual stream hands the stream on as it is.

    Example:
        >>> Dropped(Form(arity=2))(torch.ones(1, 3, 8))
        (tensor(0.), None)
    """

    def __init__(self, form: Form) -> None:
        """`form` is that of the part whose place it takes."""
        super().__init__()
        self.form = form

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """A zero of the first floating-point input's type and device, or the stream; and what the part passes on."""
        stream = self.form.find_stream(args, kwargs)
        value = self._make_zero((*args, *kwargs.values())) if stream is None else stream
        return self.form.wrap(value, args, kwargs)

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"arity={self.form.arity}, stream={self.form.stream!r}, full={self.form.full}"

    def _make_zero(self, values: tuple[Any, ...]) -> Tensor:
        given = next((value for value in values if isinstance(value, Tensor) and value.is_floating_point()), None)
        if given is None:
            return torch.zeros(())
        return torch.zeros_like(given) if self.form.full else torch.zeros((), dtype=given.dtype, device=given.device)
