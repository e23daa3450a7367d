"""Watching a model run once: what every part of every block reads and writes on a tiny input."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from pruning.anatomy.copying import copy_module
from pruning.anatomy.encoder_decoder import count_words
from pruning.anatomy.language_model import find_image_config, find_word_config
from pruning.anatomy.part import Part, is_encoder_decoder, is_vision_language, prunes_vision
from pruning.anatomy.vision import make_image_inputs, run_tower
from search_spaces.errors import UnreadableModel

FIRST = 3  # the first id that is drawn: those before stand for padding, begin and end
_SPECIAL = ("_token_id", "_token_index")
TOKENS = 7  # enough to see tokens mix, few enough to cost nothing
MIXING = 1e-4  # relative; grouping tokens by expert moves the others by rounding only

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # positional, by name


@dataclass
class Call:
    """One call of a module inside a block. Tensors are flattened to (tokens, hidden)."""

    path: str  # relative to the block; "" is the block itself
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]  # the hidden-sized inputs
    names: list[int | str]  # position or name of each of these
    shapes: list[torch.Size]  # their shapes before they were flattened
    output: Tensor | None  # the hidden-sized output, if that is what the module returns (first)
    arity: int  # 0: a tensor is returned, n: a tuple of n
    listed: bool = False  # a list in place of a tuple
    passes: tuple[tuple[int, int | str], ...] = ()  # (position in that tuple, argument) of what is only passed on
    dimensions: int = 3  # of the residual stream: towers with images of any size have (tokens, hidden)


@dataclass
class BlockTrace:
    """The calls of one block, in the order in which they ended."""

    calls: list[Call] = field(default_factory=list)

    @property
    def block(self) -> Call:
        """The call of the block itself."""
        return self.calls[-1]

    def list_inner_calls(self) -> list[Call]:
        """All calls but the block's own."""
        return self.calls[:-1]


def find_stream(arguments: Arguments) -> Tensor:
    """The residual stream among the arguments of a block: the first tensor of numbers that are not whole.

    Raises:
        UnreadableModel: there is none.
    """
    args, kwargs = arguments
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.is_floating_point())
    stream = next(tensors, None)
    if stream is None:
        raise UnreadableModel("looked for a block that is given a residual stream and found none")
    return stream


def make_probe_inputs(model: Any, batch: int = 2, tokens: int = TOKENS) -> dict[str, Tensor]:
    """Random inputs a model accepts: token ids (batch, tokens), or pixels (batch, channels, height, width).

    An encoder-decoder is given a source (token ids, or features of sound) and a target, of unlike lengths; a vision
    tower that is pruned the images alone (`run_pruned_part`).

    Raises:
        UnreadableModel: when the model reads none of these, or its images have no known size.
    """
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    if is_encoder_decoder(model):
        return {name: value.to(device) for name, value in _make_pair(model, batch, tokens, generator).items()}
    if prunes_vision(model):
        return make_image_inputs(model, batch, generator)
    if model.main_input_name == "input_ids" or is_vision_language(model):
        size = find_word_config(model).vocab_size
        ids = torch.randint(FIRST, size, (batch, tokens), generator=generator)
        return {"input_ids": _avoid_special(ids, size, model.config).to(device)}
    if model.main_input_name == "pixel_values":
        return {name: value.to(device) for name, value in _make_pixels(model, batch, generator).items()}
    raise _build_input_error(model)


def run_pruned_part(model: Any, **inputs: Any) -> Any:
    """What a model gives for its probe inputs: of a vision tower that is pruned, the features of the images."""
    return run_tower(model, inputs) if prunes_vision(model) else model(**inputs)


def build_probe_run(model: Any, batch: int = 2, tokens: int = TOKENS, **settings: Any) -> Callable[[Any], Any]:
    """What gives the outputs of this model, or of one that was made of it, for its probe inputs."""
    inputs = make_probe_inputs(model, batch, tokens)
    if prunes_vision(model):  # also of a copy that does not say so
        return lambda each: run_tower(each, inputs)
    return lambda each: each(**inputs, **settings)


def _make_pair(model: Any, batch: int, tokens: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A source and a target of two tokens fewer; audio encoders read one length only."""
    config, targets = model.config, max(2, tokens - 2)
    target = torch.randint(3, count_words(model, Part.DECODER), (batch, targets), generator=generator)
    if model.main_input_name == "input_features" and hasattr(config, "num_mel_bins"):
        frames = 2 * config.max_source_positions
        features = torch.randn(batch, config.num_mel_bins, frames, generator=generator)
        features = features.to(next(model.parameters()).dtype)
        return {"input_features": features, "decoder_input_ids": target}
    if model.main_input_name != "input_ids":
        raise _build_input_error(model)
    source = torch.randint(3, count_words(model, Part.ENCODER), (batch, tokens), generator=generator)
    return {"input_ids": source, "decoder_input_ids": target}


def _build_input_error(model: Any) -> UnreadableModel:
    return UnreadableModel(
        f"{type(model).__name__} reads {model.main_input_name!r}; only text (input_ids), images (pixel_values) and, "
        "for an encoder-decoder, features of sound (input_features) are understood"
    )


def _avoid_special(ids: Tensor, size: int, config: Any) -> Tensor:
    """The ids, with the next ordinary one in the place of each that stands for an image, a sound or an end."""
    special = torch.tensor(sorted(_list_special_ids(config)), dtype=ids.dtype)
    while len(special) < size - FIRST and (marked := torch.isin(ids, special)).any():
        ids = torch.where(marked, FIRST + (ids - FIRST + 1) % (size - FIRST), ids)
    return ids


def _list_special_ids(config: Any) -> set[int]:
    found = {value for key, value in vars(config).items() if key.endswith(_SPECIAL) and isinstance(value, int)}
    inner = (getattr(config, key, None) for key in getattr(config, "sub_configs", {}))
    return found.union(*(_list_special_ids(each) for each in inner if each is not None))


def _make_pixels(model: Any, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Images (batch, channels, height, width); of a model that takes images of any form, their patches in rows."""
    config, dtype = find_image_config(model), next(model.parameters()).dtype
    channels, size = getattr(config, "num_channels", 3), getattr(config, "image_size", None)
    if "spatial_shapes" in signature(model.forward).parameters:
        side, patch = max(1, math.isqrt(config.num_patches)), config.patch_size
        pixels = torch.randn(batch, side * side, channels * patch * patch, generator=generator).to(dtype)
        shapes = torch.full((batch, 2), side)
        return {
            "pixel_values": pixels,
            "pixel_attention_mask": torch.ones(batch, side * side),
            "spatial_shapes": shapes,
        }
    if size is None:
        raise UnreadableModel(f"{type(model).__name__}: looked for image_size in its config and found none")
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    return {"pixel_values": torch.randn(batch, channels, height, width, generator=generator).to(dtype)}


def flatten_to_rows(value: Any, width: int) -> Tensor | None:
    """A float tensor of hidden size as (tokens, hidden), None for anything else."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2 and value.shape[-1] == width:
        return value.detach().reshape(-1, width)
    return None


@contextmanager
def switch_to_eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards each module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def run_or_refuse(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a module of a family that may be unknown.

    Raises:
        UnreadableModel: it fails, in whatever way.
    """
    return _call_or_refuse(module, module, *args, **kwargs)


def run_model_or_refuse(model: Any, **inputs: Any) -> Any:
    """The same for a whole model and its probe inputs, as `run_pruned_part` runs it."""
    return _call_or_refuse(model, partial(run_pruned_part, model), **inputs)


def _call_or_refuse(module: nn.Module, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except Exception as error:  # a family's own code, called in a way its authors did not foresee
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UnreadableModel(
            f"{type(module).__name__}: looked for one that runs on a tiny input and found that it fails ({reason})"
        ) from error


@torch.no_grad()
def record_inputs(model: Any, blocks: nn.ModuleList, **settings: Any) -> list[Arguments]:
    """What each block is called with when the model reads a tiny random input; the model is left as it was.

    Raises:
        UnreadableModel: when a block is not called.
    """
    heard: dict[nn.Module, Arguments] = {}
    with ExitStack() as stack:
        for block in blocks:
            handle = block.register_forward_pre_hook(
                lambda module, args, kwargs: heard.update({module: (args, kwargs)}), with_kwargs=True
            )
            stack.callback(handle.remove)
        with switch_to_eval_mode(model):
            run_model_or_refuse(model, **make_probe_inputs(model), **settings)
    silent = [index for index, block in enumerate(blocks) if block not in heard]
    if silent:
        raise UnreadableModel(f"{type(model).__name__}: looked for {len(blocks)} blocks that run, {silent[0]} does not")
    return [heard[block] for block in blocks]


@torch.no_grad()
def trace_block(block: nn.Module, arguments: Arguments, width: int) -> BlockTrace:
    """Record a copy of a block in float32, with random weights, reading a random residual stream.

    What adds to what is a matter of structure. The real values hide it: half precision cannot tell a sum from its
    larger part, a norm whose weights are all one looks like its neighbour, and a residual stream with massive
    activations swallows what is added to it.
    """
    double = _copy_with_random_weights(block)
    args, kwargs = _convert_to_float32(arguments)
    args, kwargs = _fill_first(args, kwargs, width)
    tape = BlockTrace()
    for path, module in double.named_modules():
        module.register_forward_hook(_build_recorder(tape, path, width), with_kwargs=True)
    run_or_refuse(double, *args, **kwargs)
    for module in double.modules():
        module._forward_hooks.clear()
    for call in tape.calls:
        call.dimensions = len(tape.block.shapes[0]) if tape.block.shapes else call.dimensions
    return tape


def _copy_with_random_weights(block: nn.Module) -> nn.Module:
    """In eval mode; the block's own weights, which may be on disk still, are not read."""
    drawn = {id(parameter): _draw(parameter, seed) for seed, parameter in enumerate(block.parameters())}
    return copy_module(block, instead=drawn).eval().float()


def _draw(parameter: Tensor, seed: int) -> nn.Parameter:
    """A parameter of the same form in float32 with random values; a copy where it has whole numbers."""
    dtype = torch.float32 if parameter.is_floating_point() else parameter.dtype
    drawn = torch.empty_like(parameter, dtype=dtype) if parameter.is_floating_point() else parameter.detach().clone()
    _scatter(drawn, seed)
    return nn.Parameter(drawn, parameter.requires_grad)


def _scatter(parameter: Tensor, seed: int) -> None:
    """Vectors get values about one, none alike; matrices keep the size of what they multiply."""
    if not parameter.is_floating_point():
        return
    generator = torch.Generator(parameter.device).manual_seed(seed)
    if parameter.ndim < 2:
        parameter.uniform_(0.5, 1.5, generator=generator)
    else:
        bound = (3 / parameter.shape[-1]) ** 0.5
        parameter.uniform_(-bound, bound, generator=generator)


def _convert_to_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: _convert_to_float32(item) for name, item in value.items()}
    return tuple(_convert_to_float32(item) for item in value) if type(value) is tuple else value


def _fill_first(args: tuple[Any, ...], kwargs: dict[str, Any], width: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments with random numbers for the first hidden-sized one, the residual stream."""
    values: dict[int | str, Any] = dict(enumerate(args))
    values.update(kwargs)
    first = next((name for name, value in values.items() if flatten_to_rows(value, width) is not None), None)
    if first is not None:
        stream = values[first]
        noise = torch.randn(stream.shape, generator=torch.Generator().manual_seed(0))
        values[first] = noise.to(stream.device)
    return tuple(values[index] for index in range(len(args))), {name: values[name] for name in kwargs}


def _build_recorder(tape: BlockTrace, path: str, width: int) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        named: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        hidden = {name: value for name, value in named if flatten_to_rows(value, width) is not None}
        inputs = [value.detach().reshape(-1, width).clone() for value in hidden.values()]
        shapes = [value.shape for value in hidden.values()]
        arity = len(output) if isinstance(output, tuple | list) else 0
        # The output is cloned: an in-place operation later in the block would rewrite it.
        rows = flatten_to_rows(first, width)
        cloned = None if rows is None else rows.clone()
        listed = isinstance(output, list)
        passes = _list_passed(named, output) if arity else ()
        tape.calls.append(Call(path, module, args, kwargs, inputs, list(hidden), shapes, cloned, arity, listed, passes))

    return record


def _list_passed(named: list[tuple[int | str, Any]], output: Sequence[Any]) -> tuple[tuple[int, int | str], ...]:
    """Of the outputs after the first, those that are an argument: their position, and its position or name."""
    tensors = [(name, value) for name, value in named if isinstance(value, Tensor)]
    passed = ((at, name) for at, each in enumerate(output) for name, value in tensors if at and each is value)
    return tuple(dict(passed).items())


def mixes_tokens(call: Call, width: int) -> bool:
    """Whether changing the first token of a module's hidden input changes what it writes for other tokens."""
    return reaches(call, width, first=1)


@torch.no_grad()
def reaches(call: Call, width: int, first: int) -> bool:
    """Whether changing the first token of a module's hidden input changes what it writes for tokens from `first` on."""

    def disturb(value: Any) -> Any:
        if flatten_to_rows(value, width) is None or value.ndim != call.dimensions:
            return value
        changed = value.clone()
        changed[..., 0, :] = changed[..., 0, :].flip(-1) + 1
        return changed

    if call.output is None or not any(rows.shape == call.output.shape for rows in call.inputs):
        return False
    given = (value for value in (*call.args, *call.kwargs.values()) if isinstance(value, Tensor))
    stream = next((value for value in given if value.ndim == call.dimensions), None)
    if stream is None:
        return False
    args = tuple(disturb(value) for value in call.args)
    kwargs = {name: disturb(value) for name, value in call.kwargs.items()}
    output = run_or_refuse(call.module, *args, **kwargs)
    output = output[0] if isinstance(output, tuple | list) else output
    tokens = stream.shape[-2]
    before, after = (rows.reshape(-1, tokens, width)[:, first:] for rows in (call.output, output))
    return before.numel() > 0 and bool((after - before).abs().max() > MIXING * before.abs().max())
