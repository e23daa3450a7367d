"""Rotary positions in exported files: frequencies that depend on the length, as functions of the positions given.

The library changes such frequencies inside the module when a longer sequence comes: a trace would keep those of the
traced length, and the ones of `dynamic` cannot be traced at all, as the module asks whether to change them.
"""

import contextlib
import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pruning.anatomy.positions import depends_on_length, find_rotaries_by_length


class _WithFrequencies:
    """A rotary module, with other frequencies than it holds."""

    def __init__(self, module: Any, name: str, frequencies: Tensor) -> None:
        self._module = module
        setattr(self, name, frequencies)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextlib.contextmanager
def trace_frequencies_by_length(model: Any) -> Iterator[None]:
    """Trace a model whose rotary frequencies follow from the largest position, whatever ran before."""
    changing = list(find_rotaries_by_length(model))
    for module in changing:
        module.forward = partial(_rotate, module)
    try:
        yield
    finally:
        for module in changing:
            del module.forward


def _rotate(module: Any, states: Tensor, position_ids: Tensor, layer_type: str | None = None) -> Any:
    """What the module's own forward gives, without changing the module."""
    own = inspect.unwrap(type(module).forward)
    more = {} if layer_type is None else {"layer_type": layer_type}
    rope_type = module.rope_type if layer_type is None else module.rope_type[layer_type]
    if not depends_on_length(rope_type):
        return own(module, states, position_ids, **more)
    prefix = "" if layer_type is None else f"{layer_type}_"
    length = position_ids.max() + 1
    frequencies = _compute_frequencies(module, rope_type, prefix, length, more)
    return own(_WithFrequencies(module, f"{prefix}inv_freq", frequencies), states, position_ids, **more)


def _compute_frequencies(module: Any, rope_type: str, prefix: str, length: Tensor, more: dict[str, str]) -> Tensor:
    """Of sequences of `length` tokens, in all."""
    config, make = module.config, ROPE_INIT_FUNCTIONS[rope_type]
    if rope_type != "longrope":
        frequencies: Tensor = make(config, length.device, seq_len=length, **more)[0]
        return frequencies
    settings = config.rope_parameters[more["layer_type"]] if more else config.rope_parameters
    original = settings["original_max_position_embeddings"]
    beyond = make(config, length.device, seq_len=original + 1, **more)[0]
    return torch.where(length > original, beyond, getattr(module, f"{prefix}original_inv_freq"))
