"""Cached decoding of a pruned decoder.

A key-value cache has one layer per attention that is left, of that attention's own type (full or sliding), and
the number of tokens seen is counted beside it: libraries read it from layer 0, which may be gone, and with no
attention left there is no layer to read it from at all. In the decoder of an encoder-decoder this is the cache of the
self-attentions; that of the cross-attentions is filled once, and nobody asks how long it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor, nn
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicCache,
    EncoderDecoderCache,
    LinearAttentionCacheLayerMixin,
)

from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.encoder_decoder import find_part, read_part_config
from pruning.anatomy.language_model import find_language_config
from pruning.anatomy.part import Part
from pruning.inference.sink_cache import SinkLayer
from pruning.surgery.block_removal import number_block
from search_spaces.architecture import Architecture
from search_spaces.errors import ArchitectureError
from search_spaces.kinds import Kind
from search_spaces.kinds.attention_window import KIND as WINDOW

_CACHE = "past_key_values"  # what the library calls it


@dataclass(frozen=True)
class Left:
    """What a stage of token reduction left in the cache of the blocks from there on.

    Attributes:
        length: tokens, with those that came after.
        valid: (B, length) bool, those that are no padding; None where all are.
        shift: (B, 1) int64, by how much their positions are lower than without the stage; None where they are not.
        held: by window, how many of them a cache within it holds, where that is no number (in a trace).

    Example:
        >>> Left(10, None, None).extend(1, None).length
        11
    """

    length: int
    valid: Tensor | None
    shift: Tensor | None
    held: Mapping[int, Any] = field(default_factory=dict)

    def count_within(self, window: int | None, new: int) -> Any:
        """How many tokens the last `new` of these see, themselves included."""
        if window is None:
            return self.length
        return new + (self.held[window] if window in self.held else min(self.length - new, window - 1))

    def select_last(self, count: Any) -> Tensor | None:
        """(B, count) bool, `valid` of the last so many; read by place, as a slice would ask a trace which is larger."""
        if self.valid is None:
            return None
        return self.valid.index_select(1, torch.arange(count, device=self.valid.device) + (self.length - count))

    def extend(self, new: int, mask: Tensor | None) -> "Left":
        """With `new` more tokens; `mask` (B, at least new) ends with theirs, None where none is padding."""
        valid = self.valid
        if valid is not None:
            added = torch.ones_like(valid[:, :1]).expand(-1, new) if mask is None else mask[:, -new:].bool()
            valid = torch.cat((valid, added), 1)
        return replace(self, length=self.length + new, valid=valid)

    def crop(self, tokens: int) -> "Left":
        """Without the last `-tokens`."""
        valid = self.valid if self.valid is None or not tokens else self.valid[:, :tokens]
        return Left(self.length + tokens, valid, self.shift)

    def select_rows(self, chosen: Tensor) -> "Left":
        """Only these rows, in this order."""
        valid, shift = (None if tensor is None else tensor[chosen] for tensor in (self.valid, self.shift))
        return Left(self.length, valid, shift)

    def repeat(self, repeats: int) -> "Left":
        """Every row so many times."""
        pair = (self.valid, self.shift)
        valid, shift = (None if tensor is None else tensor.repeat_interleave(repeats, dim=0) for tensor in pair)
        return Left(self.length, valid, shift)


class PrunedCache(DynamicCache):  # type: ignore[misc]
    """The key-value cache of a decoder with fewer attentions than blocks, or fewer tokens in some of them.

    `seen` counts the tokens that passed; `left` has, by the index of a stage's block, what the stage left.

    Example:
        >>> pruned = prune(model, Architecture.parent(4).drop(Unit(0, Kind.ATTENTION)))
        >>> cache = pruned(input_ids).past_key_values
        >>> isinstance(cache, PrunedCache), int(cache.seen) == input_ids.shape[1]
        (True, True)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As the library's cache."""
        super().__init__(*args, **kwargs)
        self.seen: int = 0
        self.left: dict[int, Left] = {}

    @classmethod
    def adopt(cls, cache: DynamicCache, layers: list[Any]) -> "PrunedCache":
        """Turn an empty cache into this one, in place: the caller holds a reference to it and will pass it again.

        One of a family's own class stays one of that class, too.
        """
        own = type(cache)
        adopted = cls if own is DynamicCache else type(f"Pruned{own.__name__}", (cls, own), {})
        recording = any(getattr(layer, "record_past", False) for layer in cache.layers)
        cache.__class__ = adopted
        if own is DynamicCache:  # others make their layers themselves
            cache.layers, cache.layer_class_to_replicate = layers, None
        assert isinstance(cache, cls)
        cache.seen, cache.left = 0, {}
        if recording:  # speculative decoding asked, before the first token, to be able to take tokens back
            cache.activate_past_recording()
        return cache

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen, whichever layers are left."""
        return self.seen

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """(key length, key offset) of a layer; of the tokens seen where no such layer is left, or it has not all.

        The masks of an attention that is gone are asked for all the same; they are made as if it were there.
        """
        layer = self.layers[layer_idx] if layer_idx < len(self.layers) else None
        if not isinstance(layer, CacheLayerMixin) or (self.left and not layer.is_sliding):
            return self.seen + query_length, 0
        sizes: tuple[int, int] = layer.get_mask_sizes(query_length)
        return sizes

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether a recurrent layer has seen tokens; where none is left, whether any were seen."""
        if layer_idx is None and not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in self.layers):
            return self.seen > 0
        return bool(super().has_previous_state(layer_idx, state_idx))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last `-tokens_to_remove` tokens; zero or negative, as the library's cache wants it.

        Raises:
            ValueError: a positive number, which the library refuses only where a layer is left.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"crop({tokens_to_remove}) is not supported; give minus the number of tokens to forget")
        super().crop(tokens_to_remove)
        self.seen = max(0, self.seen + tokens_to_remove)
        self.left = {index: left.crop(tokens_to_remove) for index, left in self.left.items()}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows in another order, as beam search asks."""
        super().reorder_cache(beam_idx)
        self.left = {index: left.select_rows(beam_idx) for index, left in self.left.items()}

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only these rows."""
        super().batch_select_indices(indices)
        self.left = {index: left.select_rows(indices) for index, left in self.left.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times."""
        super().batch_repeat_interleave(repeats)
        self.left = {index: left.repeat(repeats) for index, left in self.left.items()}

    def reset(self) -> None:
        """Forget every token."""
        super().reset()
        self.seen, self.left = 0, {}


class CacheKeeper:
    """Gives the trunk of a pruned decoder the cache that fits it, and counts the tokens that pass.

    Registered as a forward pre-hook and a forward hook of the module that owns the blocks.

    Example:
        >>> keeper = CacheKeeper(config, kept=[0, 2])  # of three blocks the second has no attention
        >>> handle = trunk.register_forward_pre_hook(keeper.prepare_cache, with_kwargs=True)
    """

    def __init__(
        self,
        config: Any,
        kept: list[int],
        has_source: bool = False,
        windows: Mapping[int, int] | None = None,
        own: type[DynamicCache] = DynamicCache,
    ) -> None:
        """Of a decoder.

        Args:
            config: describes the blocks that are left.
            kept: those of them that have an attention.
            has_source: whether it attends to an encoder, too.
            windows: of those whose attention sees a window and the first tokens, how many tokens it shows.
            own: the class of its cache.
        """
        self.config, self.kept, self.has_source, self.windows = config, kept, has_source, windows or {}
        self.own = own

    def prepare_cache(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Make, adopt or refuse the cache of this call."""
        args, kwargs = _name_arguments(module, args, kwargs)
        given = kwargs.get("past_key_values")
        wanted = kwargs.get("use_cache")
        if wanted is None:
            wanted = getattr(module, "config", self.config).use_cache
        if given is None and not wanted:
            return args, kwargs
        if given is None:
            given = EncoderDecoderCache(DynamicCache(), DynamicCache()) if self.has_source else self.own()
        cache = _get_own_cache(given)
        if isinstance(cache, PrunedCache):
            return args, kwargs
        if type(cache) is not self.own or cache.get_seq_length() > 0:
            raise ArchitectureError(
                f"a pruned decoder cannot use a {type(cache).__name__} made elsewhere; "
                "pass past_key_values=None or an empty DynamicCache, and generate without cache_implementation"
            )
        PrunedCache.adopt(cache, self._build_layers())
        if self.has_source:  # empty as well; this one grows with the blocks that fill it
            given.cross_attention_cache = DynamicCache()
        return args, {**kwargs, "past_key_values": given}

    def count_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Count the tokens of this call."""
        cache = _get_own_cache(kwargs.get("past_key_values"))
        if isinstance(cache, PrunedCache):
            cache.seen += _count_tokens(args, kwargs)

    def _build_layers(self) -> list[Any]:
        layers = DynamicCache(config=self.config).layers
        return [
            SinkLayer(self.windows[position]) if position in self.windows else layers[position]
            for position in self.kept
        ]


def find_cache_class(trunk: nn.Module) -> Any:
    """The class of cache that a decoder wants, by its annotation: the library's, or one made of it."""
    try:
        hint = get_type_hints(trunk.forward).get(_CACHE)
    except (NameError, TypeError):  # annotations that cannot be resolved
        return DynamicCache
    named = [each for each in (hint, *get_args(hint)) if isinstance(each, type)]
    return next((each for each in named if issubclass(each, DynamicCache)), DynamicCache)


def _name_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, by name where the cache is one of those that were given by position."""
    names = tuple(signature(module.forward).parameters)
    if len(args) <= names.index(_CACHE):
        return args, kwargs
    return (), {**dict(zip(names, args, strict=False)), **kwargs}


def _get_own_cache(cache: Any) -> Any:
    """The cache of a decoder's own tokens, where one is given."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


def _count_tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    given = kwargs.get("input_ids")
    if given is None:
        given = kwargs.get("inputs_embeds")
    return int((args[0] if given is None else given).shape[1])


def list_kept_attentions(architecture: Architecture) -> list[int]:
    """The blocks whose attention is left, in order: each has a layer of the cache."""
    return [layer for layer in range(architecture.depth) if architecture.runs(layer, Kind.ATTENTION)]


def find_windows(architecture: Architecture) -> dict[int, int]:
    """The blocks whose attention sees a window and the first tokens, and how many tokens it shows."""
    chosen = ((choice.layer, choice.level.get_value(WINDOW.axis)) for choice in architecture.choices)
    return {layer: value for layer, value in chosen if value is not None}


def adapt_decoding(model: Any, anatomy: Anatomy, architecture: Architecture, reduces: bool = False) -> None:
    """Re-index the kept attentions and keep the cache and the positions of a pruned decoder right, in place.

    `model` has its removed blocks taken out already. `reduces`: it drops tokens, too. Call it once per model.
    """
    kept = list_kept_attentions(architecture)
    config = find_language_config(model)
    blocks = model.get_submodule(anatomy.stack)
    scaled = getattr(config, "scale_attn_by_inverse_layer_idx", False)
    if scaled and len(kept) < anatomy.depth and not any(hasattr(module, "scaling") for module in blocks.modules()):
        raise ArchitectureError(
            f"{anatomy.family} scales an attention by its place in every pass; its attentions cannot be dropped"
        )
    remaining = [layer for layer in range(anatomy.depth) if layer not in set(architecture.list_removed_blocks())]
    trunk = model.get_submodule(anatomy.stack.rpartition(".")[0])
    if _CACHE not in signature(trunk.forward).parameters:
        for position, block in enumerate(blocks if len(remaining) < anatomy.depth else ()):
            number_block(block, position)
        return  # a recurrent model, whose states are its own affair, one for each block
    if len(kept) < anatomy.depth:
        for position, layer in enumerate(remaining):
            if layer in kept:
                number_block(blocks[position], kept.index(layer))
            cross = anatomy.blocks[layer].parts.get(Kind.CROSS_ATTENTION)
            for path in () if cross is None else cross.members:  # which have a cache of their own
                number_block(blocks[position].get_submodule(path), position)
    windows = {remaining.index(layer): window for layer, window in find_windows(architecture).items()}
    own = find_cache_class(trunk)
    if windows and own is not DynamicCache:
        raise ArchitectureError(
            f"{anatomy.family} keeps a {own.__name__}, which knows no windows; leave levels with windows out"
        )
    fits = not windows and own is DynamicCache and _has_token_count(config)
    if len(kept) == len(remaining) and not reduces and fits:
        return  # all blocks that are left are whole: the model's own cache fits
    has_source = anatomy.part is not None
    keeper = CacheKeeper(config, [remaining.index(layer) for layer in kept], has_source, windows, own)
    trunk.register_forward_pre_hook(keeper.prepare_cache, with_kwargs=True)
    trunk.register_forward_hook(keeper.count_call, with_kwargs=True)
    _take_own_cache(model)


def fit_cache_to_decoder(model: Any) -> None:
    """Keep the cache of an encoder-decoder right whose encoder lost blocks, in place; most need nothing.

    The library counts the layers of a T5's cache by its encoder, so a decoder of more blocks than that finds too few.
    """
    config = read_part_config(model, Part.DECODER)
    blocks = len(DynamicCache(config=config).layers)
    if len(DynamicCache(config=model.config).layers) >= blocks:
        return
    keeper, decoder = CacheKeeper(config, list(range(blocks)), has_source=True), find_part(model, Part.DECODER)
    decoder.register_forward_pre_hook(keeper.prepare_cache, with_kwargs=True)
    decoder.register_forward_hook(keeper.count_call, with_kwargs=True)
    _take_own_cache(model)


def _take_own_cache(model: Any) -> None:
    """Let a generation begin with the cache that is adopted: others have a layer for every block, whatever is left."""
    settings = getattr(model, "generation_config", None)
    if settings is not None:
        settings.cache_implementation = settings.cache_config = settings.max_cache_len = None


def keeps_own_cache(model: Any) -> bool:
    """Whether a pruned decoder needs a cache that its family's own code does not make."""
    hooks = (hook for module in model.modules() for hook in module._forward_hooks.values())
    return any(isinstance(getattr(hook, "__self__", None), CacheKeeper) for hook in hooks)


def _has_token_count(config: Any) -> bool:
    """Whether the library's cache for these blocks knows how many tokens it has seen: recurrent layers do not."""
    try:
        layers = DynamicCache(config=config).layers
    except KeyError:  # a kind of layer that the library has no cache for: its own affair
        return True
    return any(isinstance(layer, CacheLayerMixin) for layer in layers)
