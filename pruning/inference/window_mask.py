"""The mask of an attention that sees a window and the first tokens, made of the mask that its block is given."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache

from pruning.inference.sink_cache import SinkLayer
from search_spaces.kinds.attention_window import SINKS

MASK = "attention_mask"  # what the library calls it
PASTS = ("past_key_values", "layer_past")  # and the cache
INDEX = "layer_idx"  # and a block's place in it


class WindowMask:
    """Lets an attention see less, whenever it is called.

    Query i of a sequence sees key j where the given mask allows it and j is one of the last `window` tokens up to i,
    or one of the first tokens of the sequence.

    Example:
        >>> handle = attention.register_forward_pre_hook(WindowMask(128).narrow, with_kwargs=True)
    """

    def __init__(self, window: int) -> None:
        """`window` counts the token itself, too."""
        self.window = window

    def narrow(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call, with a mask of the keys that the attention is going to look at."""
        given = name_arguments(module, args, kwargs)
        stream = next(value for value in given.values() if isinstance(value, Tensor) and value.is_floating_point())
        mask, layer, new = given.get(MASK), find_cache_layer(module, given), stream.shape[1]
        seen = 0 if layer is None else layer.get_seq_length()
        starts = torch.zeros(1, 1, dtype=torch.int64, device=stream.device) if mask is None else find_starts(mask)
        if isinstance(layer, SinkLayer):
            layer.starts = starts
            positions, known = _list_held(layer, starts, new)
            cut = mask if mask is None else _cut(mask, starts, layer.count_recent() + new)
        else:
            positions, known, cut = torch.arange(seen + new, device=stream.device)[None], None, mask
        visible = self._find_visible(positions, seen + torch.arange(new, device=stream.device), starts)
        visible = visible if known is None else visible & known[:, None]
        return (), given | {MASK: _combine(cut, visible[:, None])}

    def _find_visible(self, keys: Tensor, queries: Tensor, starts: Tensor) -> Tensor:
        """(batch or 1, queries, keys) bool, by the positions (batch or 1, keys) and (queries,)."""
        distance = queries[None, :, None] - keys[:, None, :]
        first = (keys < starts + SINKS)[:, None, :]
        return (distance >= 0) & ((distance < self.window) | first)


def name_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    return {**dict(zip(list_arguments(module), args, strict=False)), **kwargs}


def list_arguments(module: nn.Module) -> tuple[str, ...]:
    """The names of what a module's class is called with, in order."""
    return tuple(signature(type(module).forward).parameters)[1:]


def find_cache_layer(module: nn.Module, given: dict[str, Any]) -> Any:
    """The layer of the cache that an attention is called with; None without a cache."""
    cache = next((given[name] for name in PASTS if given.get(name) is not None), None)
    if cache is None:
        return None
    own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    return own.layers[getattr(module, INDEX)]


def find_starts(mask: Tensor) -> Tensor:
    """(batch or 1, 1) int64, the first token that is no padding: the first that the last token sees.

    Args:
        mask: (batch or 1, heads or 1, queries, keys), of truth values or to be added to scores.
    """
    last = mask[:, 0, -1]
    readable = last if last.dtype == torch.bool else last > torch.finfo(last.dtype).min / 2
    return readable.int().argmax(-1, keepdim=True)


def _list_held(layer: SinkLayer, starts: Tensor, new: int) -> tuple[Tensor, Tensor]:
    """The positions (batch or 1, keys) of what a layer gives for so many new tokens, and whether each is there."""
    begin, device = layer.seen - layer.count_recent(), starts.device
    places = starts + torch.arange(SINKS, device=device)
    last = (begin + torch.arange(layer.count_recent() + new, device=device)).expand(len(starts), -1)
    return torch.cat([places, last], 1), torch.cat([places < begin, torch.ones_like(last, dtype=torch.bool)], 1)


def _cut(mask: Tensor, starts: Tensor, last: Any) -> Tensor:
    """Of a mask of all keys the columns of the first tokens of every row, and those of the last ones."""
    keys = mask.shape[-1]
    places = (starts + torch.arange(SINKS, device=mask.device)).clamp(max=keys - 1)
    index = places[:, None, None, :].expand(mask.shape[0], mask.shape[1], mask.shape[2], SINKS)
    return torch.cat([mask.gather(-1, index), mask.narrow(-1, keys - last, last)], -1)


def _combine(mask: Tensor | None, visible: Tensor) -> Tensor:
    """A mask that allows what both do."""
    if mask is None:
        return visible
    return mask & visible if mask.dtype == torch.bool else mask.masked_fill(~visible, torch.finfo(mask.dtype).min)
