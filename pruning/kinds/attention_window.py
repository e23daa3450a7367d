"""Windows of attention: the attention is the parent's, and is called with another mask.

Its cache holds what the window shows (`pruning.inference.sink_cache`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from pruning.anatomy.agreement import describe_difference, get_first_output
from pruning.anatomy.contribution import BlockAnatomy
from pruning.anatomy.copying import copy_module
from pruning.anatomy.probe import Call
from pruning.inference.sink_cache import SinkLayer
from pruning.inference.window_mask import INDEX, MASK, PASTS, WindowMask, list_arguments, name_arguments
from pruning.kinds.attention_heads import SURGERY as FEWER_HEADS
from pruning.kinds.surgery import Surgery
from pruning.surgery.replacement import replace_modules
from search_spaces.kinds import Kind
from search_spaces.kinds.attention_heads import KIND as HEADS
from search_spaces.kinds.attention_window import KIND, SINKS
from search_spaces.level import Level
from search_spaces.unit import Choice

OFFERED = tuple(2**power for power in range(11, 1, -1))  # 2,048 tokens to 4
_TRIED = 2  # a window that the tiny input of the reading is longer than, with the first tokens
_LAST = SINKS  # the first token that a later one does not see then
_CHECKED = "only what a block can have is chosen for it"


class _Window(Surgery):
    @torch.no_grad()
    def find_levels(self, call: Call, anatomy: BlockAnatomy) -> tuple[Level, ...]:
        """All, where a token then sees what it should, at once and from a cache, and nothing else changes."""
        path = find_attention(call.module, anatomy)
        if path is None or Kind.CROSS_ATTENTION in anatomy.parts:
            return ()
        try:
            kept = _keeps_all(call.module.get_submodule(path))
            agrees = kept and _sees_window(call, anatomy) and _decodes(call, anatomy, path)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, StopIteration):
            return ()  # a family's own code, given masks and a cache of another form than it takes
        return tuple(Level.on(KIND.axis, value) for value in OFFERED) if agrees else ()

    def build_modules(
        self, block: nn.Module, anatomy: BlockAnatomy, level: Level, chosen: tuple[Choice, ...]
    ) -> dict[str, nn.Module]:
        """The attention with all of its weights, which narrows the mask that it is given."""
        path = find_attention(block, anatomy)
        assert path is not None, _CHECKED
        fewer = level.get_value(HEADS.axis) is not None
        heads = FEWER_HEADS.build_modules(block, anatomy, level, chosen) if fewer else {}
        attention = heads.get(path) or block.get_submodule(path)
        return {path: _narrow(attention, dict(level.axes)[KIND.axis])}


def find_attention(block: nn.Module, anatomy: BlockAnatomy) -> str | None:
    """The module of a block's attention that is given the mask and the cache; None where none is."""
    part = anatomy.parts.get(KIND.slot)
    for member in () if part is None else part.members:
        for path, module in block.get_submodule(member).named_modules(prefix=member):
            names = list_arguments(module)
            if MASK in names and any(name in names for name in PASTS) and hasattr(module, INDEX):
                return str(path)
    return None


def _narrow(attention: nn.Module, window: int) -> nn.Module:
    narrowed = copy_module(attention, share_tensors=True)
    narrowed.register_forward_pre_hook(WindowMask(window).narrow, with_kwargs=True)
    return narrowed


def _keeps_all(attention: nn.Module) -> bool:
    """Whether the library caches plain keys and values of all tokens for an attention."""
    config = getattr(attention, "config", None)
    layers = [] if config is None else DynamicCache(config=config).layers
    index = getattr(attention, INDEX)
    return isinstance(index, int) and index < len(layers) and type(layers[index]) is DynamicLayer


def _sees_window(call: Call, anatomy: BlockAnatomy) -> bool:
    """Whether a token sees the first ones and those within the window; and all of them, where that is wide enough."""
    narrowed, wide = (_build(call, anatomy, window) for window in (_TRIED, _find_stream(call)[1].shape[1]))
    before = get_first_output(call.module(*call.args, **call.kwargs))
    if describe_difference(lambda: wide(*call.args, **call.kwargs), before) is not None:
        return False
    less = get_first_output(narrowed(*call.args, **call.kwargs))
    seeing = [_LAST <= token < _LAST + _TRIED for token in range(less.shape[1])]
    return _list_changed(narrowed, call, _LAST, less) == seeing and all(_list_changed(narrowed, call, 0, less))


def _list_changed(block: nn.Module, call: Call, token: int, before: Tensor) -> list[bool]:
    """For every token, whether what a block gives for it changes when one token does."""
    given = name_arguments(call.module, call.args, call.kwargs)
    name, stream = _find_stream(call)
    changed = stream.clone()
    changed[:, token] = changed[:, token].flip(-1) + 1
    after = get_first_output(block(**(given | {name: changed})))
    return [bool(each) for each in ((after - before).abs().amax((0, 2)) > 0)]


def _decodes(call: Call, anatomy: BlockAnatomy, path: str) -> bool:
    """Whether the last tokens, one after another from a cache, become what they do at once."""
    block, given = _build(call, anatomy, _TRIED), name_arguments(call.module, call.args, call.kwargs)
    past = next((name for name in PASTS if name in list_arguments(call.module)), None)
    if past is None:
        return False
    at_once, tokens = get_first_output(block(**given)), _find_stream(call)[1].shape[1]
    cache = DynamicCache()
    cache.layers = [SinkLayer(_TRIED) for _ in range(getattr(block.get_submodule(path), INDEX) + 1)]
    cache.layer_class_to_replicate = None
    pieces = []
    for begin, end in ((0, tokens - 2), (tokens - 2, tokens - 1), (tokens - 1, tokens)):
        part = {name: _select_tokens(name, value, begin, end, tokens) for name, value in given.items()}
        pieces.append(get_first_output(block(**(part | {past: cache}))))
    return describe_difference(lambda: torch.cat(pieces, 1), at_once) is None


def _select_tokens(name: str, value: Any, begin: int, end: int, tokens: int) -> Any:
    """What an argument is for some of the tokens: its second axis counts them, or the last two of a mask do."""
    if isinstance(value, tuple):
        return tuple(_select_tokens(name, each, begin, end, tokens) for each in value)
    if not isinstance(value, Tensor):
        return value
    if name == MASK:
        return value[..., begin:end, :end]
    return value[:, begin:end] if value.ndim > 1 and value.shape[1] == tokens else value


def _build(call: Call, anatomy: BlockAnatomy, window: int) -> nn.Module:
    block = copy_module(call.module, share_tensors=True)
    replace_modules(block, SURGERY.build_modules(call.module, anatomy, Level.on(KIND.axis, window), ()))
    return block


def _find_stream(call: Call) -> tuple[str, Tensor]:
    """The residual stream (batch, tokens, hidden) among a block's arguments, and its name."""
    given = name_arguments(call.module, call.args, call.kwargs)
    return next((name, each) for name, each in given.items() if isinstance(each, Tensor) and each.is_floating_point())


SURGERY = _Window()
