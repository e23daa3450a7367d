"""What stands where a part stood that a linear map replaces."""

from typing import Any

from torch import Tensor, nn

from pruning.surgery.dropped import Form

LINEAR = "linear"  # the name of the map within its module


class LinearStandIn(nn.Module):
    """A linear map of what the part was given, returned in the part's form.

    Example:
        >>> LinearStandIn(Form(arity=2), nn.Linear(8, 8))(torch.ones(1, 3, 8))[0].shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, form: Form, linear: nn.Module) -> None:
        """What takes the place of a part.

        Args:
            form: the part's.
            linear: (…, hidden) to (…, hidden).
        """
        super().__init__()
        self.form = form
        self.linear = linear

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The map of the input, on the stream where the part added itself to it; and what the part passes on."""
        stream = self.form.find_stream(args, kwargs)
        written = self.linear(find_given(args, kwargs, stream))
        return self.form.wrap(written if stream is None else stream + written, args, kwargs)


class PassedOn(nn.Module):
    """Hands on what it is given: a member of a part, beside the one that has the stand-in.

    Example:
        >>> PassedOn(Form())(torch.ones(1, 3, 8)).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, form: Form) -> None:
        """`form` is that of the member whose place it takes."""
        super().__init__()
        self.form = form

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first tensor; other outputs are None."""
        return self.form.wrap(find_given(args, kwargs), args, kwargs)


def find_given(args: tuple[Any, ...], kwargs: dict[str, Any], stream: Tensor | None = None) -> Tensor:
    """What a part is to work on: the first floating-point tensor with a hidden dimension that is not the stream.

    A part that norms the stream by itself is given nothing else, and works on the stream.
    """
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.is_floating_point()]
    if stream is None:
        return next(value for value in tensors if value.ndim > 1)
    return next((value for value in tensors if value is not stream and value.shape == stream.shape), stream)
