"""Watching a model run once: what every part of every block reads and writes on a tiny input."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.errors import UnreadableModel

TOKENS = 7  # enough to see tokens mix, few enough to cost nothing


@dataclass
class Call:
    """One call of a module inside a block. Tensors are flattened to (tokens, hidden)."""

    path: str  # relative to the block; "" is the block itself
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]  # the hidden-sized inputs
    output: Tensor | None  # the hidden-sized output, if that is what the module returns (first)
    arity: int  # 0: a tensor is returned, n: a tuple of n


@dataclass
class Tape:
    """The calls of one block, in the order in which they ended."""

    calls: list[Call] = field(default_factory=list)

    @property
    def block(self) -> Call:
        """The call of the block itself."""
        return self.calls[-1]

    def inner(self) -> list[Call]:
        """All calls but the block's own."""
        return self.calls[:-1]


def probe_inputs(model: Any, batch: int = 2, tokens: int = TOKENS) -> dict[str, Tensor]:
    """Random inputs a model accepts: token ids (batch, tokens), or pixels (batch, channels, height, width).

    Raises:
        UnreadableModel: when the model reads neither `input_ids` nor `pixel_values`.
    """
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    if model.main_input_name == "input_ids":
        ids = torch.randint(3, model.config.vocab_size, (batch, tokens), generator=generator)
        return {"input_ids": ids.to(device)}
    if model.main_input_name == "pixel_values":
        size, channels = model.config.image_size, getattr(model.config, "num_channels", 3)
        height, width = (size, size) if isinstance(size, int) else size
        pixels = torch.randn(batch, channels, height, width, generator=generator)
        return {"pixel_values": pixels.to(device, next(model.parameters()).dtype)}
    raise UnreadableModel(
        f"{type(model).__name__} reads {model.main_input_name!r}; only text (input_ids) and images (pixel_values) "
        "are understood"
    )


def as_rows(value: Any, width: int) -> Tensor | None:
    """A float tensor of hidden size as (tokens, hidden), None for anything else."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2 and value.shape[-1] == width:
        return value.detach().reshape(-1, width)
    return None


@contextmanager
def recording(blocks: nn.ModuleList, width: int) -> Iterator[list[Tape]]:
    """Record every module call inside each block while the context lasts."""
    tapes = [Tape() for _ in blocks]
    with ExitStack() as stack:
        for block, tape in zip(blocks, tapes, strict=True):
            for path, module in block.named_modules():
                handle = module.register_forward_hook(_recorder(tape, path, width), with_kwargs=True)
                stack.callback(handle.remove)
        yield tapes


def _recorder(tape: Tape, path: str, width: int) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        inputs = [rows for value in (*args, *kwargs.values()) if (rows := as_rows(value, width)) is not None]
        arity = len(output) if isinstance(output, tuple) else 0
        # The output is cloned: an in-place operation later in the block would rewrite it.
        rows = as_rows(first, width)
        cloned = None if rows is None else rows.clone()
        tape.calls.append(Call(path, module, args, kwargs, [rows.clone() for rows in inputs], cloned, arity))

    return record


@torch.no_grad()
def mixes_tokens(call: Call, width: int) -> bool:
    """Whether changing the first token of a module's hidden input changes what it writes for other tokens."""

    def disturb(value: Any) -> Any:
        if as_rows(value, width) is None or value.ndim != 3:
            return value
        changed = value.clone()
        changed[:, 0] = changed[:, 0].flip(-1) + 1
        return changed

    if call.output is None or not any(rows.shape == call.output.shape for rows in call.inputs):
        return False
    three = [value for value in (*call.args, *call.kwargs.values()) if isinstance(value, Tensor) and value.ndim == 3]
    if not three:
        return False
    args = tuple(disturb(value) for value in call.args)
    kwargs = {name: disturb(value) for name, value in call.kwargs.items()}
    output = call.module(*args, **kwargs)
    output = output[0] if isinstance(output, tuple) else output
    tokens = three[0].shape[1]
    before, after = (rows.reshape(-1, tokens, width)[:, 1:] for rows in (call.output, output))
    return not torch.equal(before, after)
