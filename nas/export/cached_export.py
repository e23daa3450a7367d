"""A decoder with a key-value cache as a function of tensors only: the phases `prefill` and `decode`.

The cache crosses the border of the file as `past.{block}.key` and `.value` (in) and `present.{block}.key` and `.value`
(out), each (batch, key-value heads, tokens, head size), one pair per attention that is left; {block} is the block's
index in the parent. An attention with a sliding window of w tokens hands over the last w - 1 only, which is all that
the next token can see; one that sees the first tokens, too, has places for them before these
(`pruning.inference.sink_cache`). `present` of one call is `past` of the next. Prompts of unlike length are padded on
the left.
`decode` takes any number of new tokens after any number of past ones, none among them, so that it can read a prompt;
of a model that drops tokens it takes one, since it is in a prompt that they are dropped.
A model that drops tokens hands over more beside them (`stage_cache`); keys and values are fewer from a stage on.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from latency_models.workload import Phase
from nas.export.stage_cache import CacheStage, list_cache_stages, make_stage_tensors, read_lefts
from pruning.anatomy.part import PIXELS, is_encoder_decoder
from pruning.inference.kv_cache import CacheKeeper, PrunedCache, list_kept_attentions
from pruning.inference.sink_cache import SinkLayer
from pruning.surgery.prune import RECORD
from search_spaces.architecture import Architecture
from search_spaces.errors import ExportError
from search_spaces.kinds.attention_window import SINKS

NEW = 3  # tokens that a file of `decode` is traced with
_TOKENS = 2  # axis of keys and values that counts tokens
_PAST = "past"  # names the axis that counts the tokens before this call, with a stage's block after it those left
_PLAIN = (DynamicLayer, DynamicSlidingWindowLayer, SinkLayer)  # layers of the library's cache that are exported
_ALL = "past + sequence"  # names the mask's
_HELD = "held_"  # names, with the window after it, the axis of keys and values within a window
_SINKS = "sinks_held_"  # the same with places for the first tokens before them


def name_cache_tensors(prefix: str, block: int) -> tuple[str, str]:
    """Names of the keys and values of a block's attention; `prefix` is past or present."""
    return f"{prefix}.{block}.key", f"{prefix}.{block}.value"


def is_past(name: str) -> bool:
    """Whether an input of a file holds past keys or values."""
    return name.startswith("past.")


@dataclass(frozen=True)
class CacheLayer:
    """What one attention keeps of the tokens it has seen.

    Attributes:
        block: index in the parent; by it the file's inputs and outputs are named.
        keys, values: their heads and the size of one, which latent attention (MLA) has unlike.
        window: tokens that a token sees, itself included; None for all.
        sinks: places for first tokens that stay in sight beside the window.
        stage: the block of the schedule's last stage before it; None where all tokens are there.
    """

    block: int
    keys: tuple[int, int]
    values: tuple[int, int]
    window: int | None
    dtype: torch.dtype = torch.float32
    stage: int | None = None
    sinks: int = 0

    def name_tensors(self, prefix: str) -> tuple[str, str]:
        """Names of keys and values; `prefix` is past or present."""
        return name_cache_tensors(prefix, self.block)

    @property
    def axis(self) -> str:
        """Names the axis that counts tokens: windows of one size share one, as how full they are and what was seen
        differ; so do the layers of one stage."""
        name = _PAST if self.window is None else f"{_SINKS if self.sinks else _HELD}{self.window}"
        return name if self.stage is None else f"{name}_{self.stage}"

    def count_cached(self, past: int) -> int:
        """How many of `past` tokens are handed over, with the places of first ones."""
        return past if self.window is None else self.sinks + min(past, self.window - 1)


class TracedLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of the library's cache whose lengths stay symbols while it is traced; empty without `keys`."""

    def __init__(self, window: int | None, seen: int, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        """`seen` counts all tokens before this call, those that left the window included."""
        super().__init__()
        self.window, self.seen, self.is_sliding = window, seen, window is not None
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys and values that this call may look at; keeps what the next may."""
        if self.keys is not None and self.values is not None:
            key_states = torch.cat([self.keys, key_states], dim=_TOKENS)
            value_states = torch.cat([self.values, value_states], dim=_TOKENS)
        self.keys, self.values = self._select_last(key_states), self._select_last(value_states)
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(keys of this call, how many tokens were seen before the first of them)."""
        if self.keys is None:
            return query_length, 0
        held = self.keys.shape[_TOKENS] if self.is_sliding else self.seen
        return held + query_length, self.seen - held

    def _select_last(self, states: Tensor) -> Tensor:
        if self.window is None:
            return states
        length = states.shape[_TOKENS]
        kept = torch.sym_min(length, self.window - 1)  # type: ignore[no-untyped-call]
        return states.narrow(_TOKENS, length - kept, kept)


def _build_layer(layer: CacheLayer, seen: Any, past: Sequence[Tensor]) -> TracedLayer | SinkLayer:
    """What a decoder is given for a layer in a trace; empty without a past."""
    if layer.window is not None and layer.sinks:
        return SinkLayer(layer.window, seen, *past)
    return TracedLayer(layer.window, seen, *past)


class CachedExportable(nn.Module):
    """A decoder in one of the cached phases: logits of the last token, then every present key and value."""

    def __init__(
        self,
        model: Any,
        phase: Phase,
        inputs: Sequence[str],
        layers: Sequence[CacheLayer],
        stages: Sequence[CacheStage] = (),
    ) -> None:
        """`inputs` names the tensors that are not of the cache; they come first."""
        super().__init__()
        self.model, self.phase, self.inputs = model, phase, tuple(inputs)
        self.layers, self.stages = tuple(layers), tuple(stages)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """(batch, 1, vocabulary), two tensors per layer, and those of the stages."""
        given = dict(zip(self.inputs, tensors, strict=False))
        pasts = tensors[len(self.inputs) :]
        mask = given["attention_mask"]
        seen = mask.shape[1] - self._select_new(given["input_ids"]) if self.phase is Phase.DECODE else 0
        cache = PrunedCache()  # it counts the tokens itself, so it fits a decoder with any attentions left
        cache.seen = seen
        cache.layers = [
            _build_layer(layer, seen, pasts[2 * index : 2 * index + 2]) for index, layer in enumerate(self.layers)
        ]
        if self.phase is Phase.DECODE:
            cache.left = read_lefts(self.stages, pasts[2 * len(self.layers) :], self._count_held(cache.layers))
        logits = self.model(**given, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        kept = chain.from_iterable((layer.keys, layer.values) for layer in cache.layers)
        return logits, *kept, *make_stage_tensors(cache, self.stages, mask)

    def _select_new(self, tokens: Tensor) -> Any:
        return 1 if self.stages else tokens.shape[1]

    def _count_held(self, layers: Sequence[TracedLayer]) -> dict[int, dict[int, Any]]:
        """How many tokens the windows of every stage hold."""
        held: dict[int, dict[int, Any]] = {stage.block: {} for stage in self.stages}
        for described, layer in zip(self.layers, layers, strict=True):
            if described.stage is not None and described.window is not None and layer.keys is not None:
                held[described.stage][described.window] = layer.keys.shape[_TOKENS]
        return held


@torch.no_grad()
def read_cache_layers(model: Any, phase: Phase) -> tuple[CacheLayer, ...]:
    """The cache of a decoder, pruned or not, as it builds it itself for two tokens.

    Raises:
        ExportError: the model has no phase `prefill` or `decode`.
    """
    name = type(model).__name__
    if is_encoder_decoder(model):
        raise ExportError(
            f"{name} has no phase {phase} here: the files of an encoder-decoder are those of its encoder and of its "
            "decoder without a cache; use forward"
        )
    if not model.can_generate() or model.get_output_embeddings() is None:
        raise ExportError(
            f"{name} has no phase {phase}: only a decoder with a language-model head keeps a cache; use forward"
        )
    output = model(input_ids=torch.ones(1, 2, dtype=torch.long), use_cache=True)
    held = getattr(getattr(output, "past_key_values", None), "layers", None)
    if held is None:
        raise ExportError(f"{name} returns no cache, so there is nothing that {phase} could hand over; use forward")
    other = {type(layer).__name__ for layer in held if type(layer) not in _PLAIN}
    if other:
        raise ExportError(
            f"{name} keeps {', '.join(sorted(other))}; {phase} is exported for plain keys and values, use forward"
        )
    stages = [stage.block for stage in list_cache_stages(model)]
    return tuple(
        CacheLayer(
            block, _read_heads(layer.keys), _read_heads(layer.values), _read_window(layer),
            layer.keys.dtype,
            max((stage for stage in stages if stage <= block), default=None),
            SINKS if isinstance(layer, SinkLayer) else 0,
        )
        for block, layer in zip(_find_kept_attentions(model, len(held)), held, strict=True)
    )  # fmt: skip


def _read_window(layer: Any) -> int | None:
    """Tokens that a token sees; None where it sees all."""
    window: int | None = layer.window if isinstance(layer, SinkLayer) else getattr(layer, "sliding_window", None)
    return window


def _read_heads(states: Tensor) -> tuple[int, int]:
    """(heads, size of one) of keys or values (batch, heads, tokens, size)."""
    return states.shape[1], states.shape[3]


def decode_inputs(
    model: Any, prompt: Mapping[str, Tensor], layers: Sequence[CacheLayer], seed: int = 0, new: int = 1
) -> dict[str, Tensor]:
    """The last tokens of a prompt after random keys and values of those before them.

    Where the model drops tokens, one token after those that it keeps itself: how many depends on the stages.

    Args:
        prompt: the inputs of `forward`, each (batch, past + new).
        new: how many tokens are not past.
    """
    words = {name: tensor for name, tensor in prompt.items() if name != PIXELS}  # an image is in the past by then
    new = 1 if list_cache_stages(model) else new
    inputs = {name: tensor if name == "attention_mask" else tensor[:, -new:] for name, tensor in words.items()}
    if list_cache_stages(model):
        before = {name: tensor if name == PIXELS else tensor[:, :-1] for name, tensor in prompt.items()}
        with torch.no_grad():
            cache = model(**before, use_cache=True).past_key_values
        return inputs | read_past(model, cache, layers, before["attention_mask"])
    generator = torch.Generator().manual_seed(seed)
    batch, total = prompt["attention_mask"].shape
    for layer in layers:
        for name, (heads, size) in zip(layer.name_tensors("past"), (layer.keys, layer.values), strict=True):
            shape = (batch, heads, layer.count_cached(total - new), size)
            inputs[name] = torch.randn(shape, generator=generator).to(layer.dtype)
    return inputs


def read_past(model: Any, cache: Any, layers: Sequence[CacheLayer], mask: Tensor) -> dict[str, Tensor]:
    """What a file of `decode` takes of a model's own cache, by input name.

    Args:
        mask: (batch, tokens) of all tokens that the cache has seen.
    """
    stages = list_cache_stages(model)
    names = _list_names("past", layers, stages)
    kept = chain.from_iterable((layer.keys, layer.values) for layer in cache.layers)
    return dict(zip(names, (*kept, *(make_stage_tensors(cache, stages, mask) if stages else ())), strict=True))


def clear_past(past: Mapping[str, Tensor], layers: Sequence[CacheLayer]) -> dict[str, Tensor]:
    """The same past before any token: of no length, or of empty places for the first tokens."""
    counts = {name: layer.count_cached(0) for layer in layers for name in layer.name_tensors("past")}
    return {name: torch.zeros_like(past[name].narrow(_TOKENS, 0, count)) for name, count in counts.items()}


def _list_names(prefix: str, layers: Sequence[CacheLayer], stages: Sequence[CacheStage]) -> list[str]:
    """Of all that crosses the border of a file, in order."""
    kept = [name for layer in layers for name in layer.name_tensors(prefix)]
    return kept + [name for stage in stages for name in stage.name_tensors(prefix)]


@dataclass(frozen=True)
class Tracing:
    """What the exporter traces: a function, its inputs by name, their dynamic axes, and the names of its outputs."""

    module: nn.Module
    inputs: dict[str, Tensor]
    axes: tuple[dict[int, Any], ...]
    outputs: tuple[str, ...]
    layers: tuple[CacheLayer, ...] = ()


def build_cached_tracing(model: Any, phase: Phase, prompt: dict[str, Tensor], whole_cache: bool = False) -> Tracing:
    """A decoder in one of the cached phases, to be traced on a prompt.

    Args:
        whole_cache: keep all keys and values, also where a window sees fewer.

    Raises:
        ExportError: the model has no such phase.
    """
    layers, stages = read_cache_layers(model, phase), list_cache_stages(model)
    if whole_cache:
        layers = tuple(replace(layer, window=None, sinks=0) for layer in layers)
    inputs = decode_inputs(model, prompt, layers, new=NEW) if phase is Phase.DECODE else prompt
    names = tuple(name for name in inputs if not is_past(name))
    axes = _decode_axes(names, layers, stages) if phase is Phase.DECODE else _build_prefill_axes(names)
    presents = _list_names("present", layers, stages)
    module = CachedExportable(model, phase, names, layers, stages)
    derived = () if stages else layers  # parts of a graph in which layers are of unlike length are not dropped later
    return Tracing(module, inputs, axes, ("logits", *presents), derived)


def compute_axis_size(axis: str, batch: int, length: int, phase: Phase = Phase.FORWARD) -> int:
    """The size of a named dynamic axis; `length` is the sequence, or the past of `decode`, which takes one new token.

    Of tokens that a stage left it is the most: how many are left is the schedule's affair.
    """
    new = 1 if phase is Phase.DECODE else length
    sizes = {"batch": batch, "sequence": new, _ALL: length + new, "past + 1": length + 1}
    if _HELD in axis:
        places = SINKS if axis.startswith(_SINKS) else 0
        return places + min(length, int(axis.partition(_HELD)[2].partition("_")[0]) - 1)
    return sizes.get(axis, length)


def _build_prefill_axes(inputs: Sequence[str]) -> tuple[dict[int, Any], ...]:
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    return tuple({0: batch} if name == PIXELS else {0: batch, 1: sequence} for name in inputs)


def _decode_axes(
    inputs: Sequence[str], layers: Sequence[CacheLayer], stages: Sequence[CacheStage]
) -> tuple[dict[int, Any], ...]:
    batch, past = torch.export.Dim("batch"), torch.export.Dim(_PAST)
    counted = {layer.axis for layer in layers} | {f"{_PAST}_{stage.block}" for stage in stages}
    tokens = {axis: torch.export.Dim(axis) for axis in sorted(counted)} | {_PAST: past}
    # A sum of two sizes cannot be declared: the exporter finds out that the mask is as long as past and new tokens.
    given: dict[int, Any] = {0: batch} if stages else {0: batch, 1: torch.export.Dim("sequence")}
    mask: dict[int, Any] = {0: batch, 1: past + 1 if stages else torch.export.Dim.AUTO}
    axes = [mask if name == "attention_mask" else given for name in inputs]
    axes += [{0: batch, _TOKENS: tokens[layer.axis]} for layer in layers for _ in layer.name_tensors("past")]
    for stage in stages:
        left: dict[int, Any] = {0: batch, 1: tokens[f"{_PAST}_{stage.block}"]}
        axes += [left, {0: batch}][: len(stage.name_tensors("past"))]
    return tuple(axes)


@contextlib.contextmanager
def stop_counting_cache(model: Any) -> Iterator[None]:
    """Trace a pruned decoder without its own count of the tokens, which would bake in the length of the prompt."""
    counting = [
        (module, key, hook)
        for module in model.modules()
        for key, hook in module._forward_hooks.items()
        if isinstance(getattr(hook, "__self__", None), CacheKeeper)
    ]
    for module, key, _ in counting:
        del module._forward_hooks[key]
    try:
        yield
    finally:
        for module, key, hook in counting:
            module._forward_hooks[key] = hook


def read_lengths_from_mask(graph: Any, layers: Sequence[CacheLayer]) -> None:
    """Let no node ask a past key or value for its size, in place: its attention may be dropped from the graph.

    The exporter reads batch and past from whichever input has them; (batch, past + sequence) is the size of the mask.
    """
    import onnx_ir as ir

    windows = {name: layer for layer in layers for name in layer.name_tensors("past")}
    given = {value.name: value for value in graph.inputs}
    if not windows.keys() & given.keys():
        return
    mask, words = given["attention_mask"], given["input_ids"]
    mask.shape = ir.Shape([mask.shape[0], _ALL])
    for node in list(graph):
        if node.op_type != "Shape" or node.inputs[0].name not in windows:
            continue
        layer, axis = windows[node.inputs[0].name], node.attributes["start"].as_int()
        added = [ir.node("Shape", [mask], {"start": min(axis, 1), "end": min(axis, 1) + 1})]
        if axis == _TOKENS:
            new = ir.node("Shape", [words], {"start": 1, "end": 2})
            added += [new, ir.node("Sub", [added[-1].outputs[0], new.outputs[0]])]
            if layer.window is not None:
                added += _add_constant("Min", added[-1].outputs[0], layer.window - 1)
            if layer.sinks:
                added += _add_constant("Add", added[-1].outputs[0], layer.sinks)
        graph.insert_before(node, added)
        ir.convenience.replace_all_uses_with(node.outputs[0], added[-1].outputs[0])
        graph.remove(node, safe=True)


def _add_constant(operator: str, value: Any, constant: int) -> list[Any]:
    import onnx_ir as ir

    given = ir.node("Constant", [], {"value": ir.tensor(np.array([constant], dtype=np.int64))})
    return [given, ir.node(operator, [value, given.outputs[0]])]


def _find_kept_attentions(model: Any, count: int) -> list[int]:
    """The parent's block of each of `count` attentions; a model that was not pruned is its own parent."""
    record = getattr(model.config, RECORD, None)
    if record is None:
        return list(range(count))
    return list_kept_attentions(Architecture.from_json(record))
