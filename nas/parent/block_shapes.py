"""What each block of a model is made of, read from its modules and from one run on a tiny input.

The weights are those of the modules. How often they are used, and what is computed besides, is counted while the model
runs: a config's names for experts, shared experts and heads differ by family, and some families run every expert and
weight most with zero. What a token leaves in the cache is looked up in the cache.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from latency_models.block_shape import AttentionShape, BlockShape, CrossAttentionShape, MlpShape
from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.language_model import find_block_config, find_word_config
from pruning.anatomy.probe import find_stream, make_probe_inputs, run_model_or_refuse, switch_to_eval_mode
from pruning.inference.light_copy import copy_lightly
from search_spaces.errors import UnreadableModel
from search_spaces.kinds import PARTS, Kind

TOKENS = 64  # recurrences work in chunks of as many
CACHE_DIMENSIONS = 4  # (batch, heads, tokens, head size)
SPARE = 3  # positions that some families keep for padding, and one for the next token
WEIGHTED = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.convolution)  # others have two activations


@dataclass
class _Count:
    """Multiply-adds of one part: of activations with weights, and of activations with each other."""

    weighted: int = 0
    paired: int = 0

    @property
    def total(self) -> int:
        return self.weighted + self.paired


@dataclass
class _Counts:
    """Of every part, by block; `rows` are the tokens of all sequences, `length` those of one."""

    parts: dict[tuple[int, Kind], _Count]
    rows: int = 0
    length: int = 0


class _Counter(TorchDispatchMode):
    """Counts the multiply-adds of whatever runs in it, by torch's own formulas, while `count` is set.

    torch's FlopCounterMode also tracks modules, which families that switch gradients on inside do not survive.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: _Count | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        operator = func._overloadpacket
        if self.count is not None and operator is _FUSED:
            query, key, value = args[:3]
            self.count.paired += math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        elif self.count is not None and operator in flop_registry:
            amount = flop_registry[operator](*args, **(kwargs or {}), out_val=output) // 2
            weighted = operator in WEIGHTED
            self.count.weighted += amount * weighted
            self.count.paired += amount * (not weighted)
        return output


_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which torch has no formula for


@torch.no_grad()
def read_blocks(model: Any, anatomy: Anatomy) -> tuple[BlockShape, ...]:
    """The shape of every block; `model` is left as it was.

    Raises:
        UnreadableModel: it does not run on a tiny input.
    """
    model = copy_lightly(model)
    blocks = model.get_submodule(anatomy.stack)
    inputs = _make_inputs(model)
    counts, output = _count(model, anatomy, inputs, **({"use_cache": True} if anatomy.is_decoder else {}))
    caches = _list_cache_layers(output, anatomy)
    attending, working = (
        [index for index, block in enumerate(anatomy.blocks) if kind in block.parts and not block.unread]
        for kind in PARTS
    )
    attentions = {index: _read_attention(model, anatomy, index, counts, caches[index]) for index in attending}
    step = _count_next_token(model, anatomy, inputs, output)
    if step is not None:
        attentions = {
            index: replace(attention, past=_count_past(attention, step.parts[index, Kind.ATTENTION], counts.length))
            for index, attention in attentions.items()
        }
    mlps = {
        index: _read_mlp(_list_members(blocks[index], anatomy, index, Kind.MLP), counts, index, anatomy.hidden_size)
        for index in working
    }
    crosses = _read_cross_attentions(model, anatomy, counts, output)
    return tuple(
        BlockShape(attentions.get(index), mlps.get(index), cross_attention=crosses[index])
        for index in range(anatomy.depth)
    )


def _count_past(attention: AttentionShape, step: _Count, length: int) -> int:
    """Multiply-adds with weights for each token of the past, besides those of the new one."""
    beyond = step.weighted - attention.weights - attention.extra
    return max(0, round(beyond / length)) if attention.pair else 0


def _make_inputs(model: Any) -> dict[str, Tensor]:
    config = find_word_config(model)
    known = [getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len", "max_target_positions")]
    positions = min((count for count in known if isinstance(count, int)), default=TOKENS + SPARE)
    return make_probe_inputs(model, batch=1, tokens=max(2, min(TOKENS, positions - SPARE)))


def _list_members(block: nn.Module, anatomy: Anatomy, index: int, kind: Kind) -> list[nn.Module]:
    return [block.get_submodule(path) for path in anatomy.blocks[index].get_contribution(kind).members]


def _read_attention(model: Any, anatomy: Anatomy, index: int, counts: _Counts, cache: Any) -> AttentionShape:
    members = _list_members(model.get_submodule(anatomy.stack)[index], anatomy, index, Kind.ATTENTION)
    weights = sum(p.numel() for p in _list_parameters(members) if p.ndim >= 2)
    count = counts.parts[index, Kind.ATTENTION]
    state = _count_state(cache)
    if state:
        return AttentionShape(weights, 0, 0, 0, state, round(count.total / counts.rows) - weights)
    pair = round(count.paired / counts.rows / counts.length)
    extra = round(count.weighted / counts.rows) - weights
    return AttentionShape(
        weights, _count_heads(model, index), pair, _count_cached(cache, weights, pair, anatomy), extra=extra
    )


def _read_cross_attentions(
    model: Any, anatomy: Anatomy, counts: _Counts, output: Any
) -> list[CrossAttentionShape | None]:
    """Of every block; the cache has as many tokens as the source had."""
    if Kind.CROSS_ATTENTION not in anatomy.parts:
        return [None] * anatomy.depth
    layers, fixed = output.past_key_values.cross_attention_cache.layers, model.main_input_name == "input_features"
    shapes: list[CrossAttentionShape | None] = []
    for index in range(anatomy.depth):
        members = _list_members(model.get_submodule(anatomy.stack)[index], anatomy, index, Kind.CROSS_ATTENTION)
        weights = sum(p.numel() for p in _list_parameters(members) if p.ndim >= 2)
        count, source = counts.parts[index, Kind.CROSS_ATTENTION], layers[index].keys.shape[2]
        keys = _solve_keys(count.weighted, weights, counts.rows, source)
        cached = sum(tensor.shape[1] * tensor.shape[3] for tensor in (layers[index].keys, layers[index].values))
        pair = round(count.paired / counts.rows / source)
        heads = _count_heads(model, index)
        shapes.append(CrossAttentionShape(weights - keys, keys, heads, pair, cached, source if fixed else None))
    return shapes


def _solve_keys(products: int, weights: int, target: int, source: int) -> int:
    """How many of the weights the source is multiplied with; the target is with the others, and has another length."""
    if target == source:
        return weights // 2
    return min(weights, max(0, round((products - target * weights) / (source - target))))


def _count_heads(model: Any, index: int) -> int:
    config = find_block_config(model, index)
    return int(getattr(config, "num_attention_heads", getattr(config, "num_heads", 1)))


def _count_cached(cache: Any, weights: int, pair: int, anatomy: Anatomy) -> int:
    """Elements of a token in the cache; without one, its keys and values: what queries and output leave of the weights,
    as both have half of a pair's products for their width."""
    kept = [getattr(cache, name, None) for name in ("keys", "values")]
    if all(isinstance(tensor, Tensor) and tensor.ndim == CACHE_DIMENSIONS for tensor in kept):
        return sum(tensor.shape[1] * tensor.shape[3] for tensor in kept if tensor is not None)
    return max(0, round(weights / anatomy.hidden_size) - pair)


def _read_mlp(members: list[nn.Module], counts: _Counts, index: int, hidden: int) -> MlpShape:
    """Matrices of one more dimension are those of experts, as are modules of one form in a list."""
    macs = counts.parts[index, Kind.MLP].total / counts.rows
    banks, dense = _split(members)
    experts = len(banks)
    each = [p.numel() for p in banks[0]] if banks else []
    matrices = [p.numel() for p in dense]
    active = min(experts, max(0, round((macs - sum(matrices)) / sum(each)))) if each else 0
    inner = _count_inner(matrices, hidden) + active * _count_inner(each, hidden)
    extra = round(macs - sum(matrices) - active * sum(each))
    return MlpShape(sum(matrices), inner, experts, sum(each), active, extra)


def _count_inner(matrices: list[int], hidden: int) -> int:
    """Elements between matrices of so many parameters that all have `hidden` at one side: all but the last one's."""
    return round((sum(matrices) - min(matrices)) / hidden) if len(matrices) > 1 else 0


def _split(members: list[nn.Module]) -> tuple[list[list[Tensor]], list[Tensor]]:
    """(the matrices of each routed expert, those that every token uses)."""
    modules = [module for member in members for module in member.modules()]
    lists = [m for m in modules if isinstance(m, nn.ModuleList) and _is_alike(m)]
    listed = {id(p) for experts in lists for p in experts.parameters()}
    banks: list[list[Tensor]] = [
        [p for p in expert.parameters() if p.ndim >= 2] for experts in lists for expert in experts
    ]
    for owner in modules:
        own = [p for p in owner.parameters(recurse=False) if id(p) not in listed]
        stacked = [] if isinstance(owner, nn.modules.conv._ConvNd) else [p for p in own if p.ndim == 3]
        if stacked:  # what else it owns are the experts' biases
            banks += [[p[expert] for p in stacked] for expert in range(len(stacked[0]))]
            listed |= {id(p) for p in own}
    return banks, [p for p in _list_parameters(members) if p.ndim >= 2 and id(p) not in listed]


def _is_alike(experts: nn.ModuleList) -> bool:
    forms = {tuple(p.shape for p in expert.parameters()) for expert in experts}
    return len(experts) > 1 and len(forms) == 1 and any(len(shape) >= 2 for shape in next(iter(forms)))


def _list_parameters(members: Sequence[nn.Module]) -> list[Tensor]:
    return list({id(p): p for member in members for p in member.parameters()}.values())


def _count(model: Any, anatomy: Anatomy, inputs: dict[str, Tensor], **settings: Any) -> tuple[_Counts, Any]:
    """What every part computes when the model reads these inputs, and what the model returns."""
    blocks, counter = model.get_submodule(anatomy.stack), _Counter()
    counts = _Counts({(index, kind): _Count() for index, block in enumerate(anatomy.blocks) for kind in block.parts})
    handles = [blocks[0].register_forward_pre_hook(_measure(counts), with_kwargs=True)]
    for (index, kind), count in counts.parts.items():
        for member in _list_members(blocks[index], anatomy, index, kind):
            handles += _watch(member, counter, count)
    try:
        with switch_to_eval_mode(model), run_plain_experts(model), counter:
            return counts, run_model_or_refuse(model, **inputs, **settings)
    finally:
        for handle in handles:
            handle.remove()


def _measure(counts: _Counts) -> Any:
    def measure(module: nn.Module, args: Any, kwargs: Any) -> None:
        stream = find_stream((args, kwargs))
        counts.rows, counts.length = stream[..., 0].numel(), stream.shape[-2]

    return measure


def _watch(member: nn.Module, counter: _Counter, count: _Count) -> list[Any]:
    """Hooks that let `count` have what is computed inside a module."""

    def begin(*_: Any) -> None:
        counter.count = count

    def end(*_: Any) -> None:
        counter.count = None

    return [member.register_forward_pre_hook(begin), member.register_forward_hook(end)]


@contextlib.contextmanager
def run_plain_experts(model: Any) -> Iterator[None]:
    """A mixture runs expert by expert, in products that torch's counter knows."""
    used = getattr(model.config, "_experts_implementation", None)
    if not used or used == "eager":
        yield
        return
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(used)


def _list_cache_layers(output: Any, anatomy: Anatomy) -> list[Any]:
    """What each block keeps for the tokens to come: a layer of the library's cache, None where there is none."""
    if not anatomy.is_decoder:
        return [None] * anatomy.depth
    cache = _find_cache(output)[1]
    layers = list(getattr(getattr(cache, "self_attention_cache", cache), "layers", ()))
    return layers if len(layers) == anatomy.depth else [None] * anatomy.depth


def _count_next_token(model: Any, anatomy: Anatomy, inputs: dict[str, Tensor], output: Any) -> _Counts | None:
    """What one more token costs after a cache was filled; None for a model that does not decode by itself.

    Nor is it known of a family that fails with a token and a cache, because it wants all tokens again.
    """
    name, cache = _find_cache(output)
    if cache is None or anatomy.part is not None:
        return None
    last = {name: tensor[:, -1:] for name, tensor in inputs.items()}
    try:
        return _count(model, anatomy, last, use_cache=True, **{name: cache})[0]
    except UnreadableModel:
        return None


def _find_cache(output: Any) -> tuple[str, Any]:
    """(how the library calls it, what a decoder keeps for the tokens to come); None where it keeps nothing."""
    named = ((name, getattr(output, name, None)) for name in ("past_key_values", "cache_params"))
    return next((each for each in named if each[1] is not None), ("", None))


def _count_state(cache: Any) -> int:
    """Elements of a sequence's recurrent states; 0 for keys and values."""
    states = [getattr(cache, name, None) or {} for name in ("conv_states", "recurrent_states")]
    tensors = [tensor for state in states for tensor in state.values() if isinstance(tensor, Tensor)]
    return sum(tensor[0].numel() for tensor in tensors)
