"""The parent's residual stream at the points that candidates are to meet."""

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.contribution import Layout
from pruning.anatomy.part import Part
from pruning.anatomy.vision import run_tower
from pruning.compensation.sites import Point
from search_spaces.kinds import Kind


@dataclass
class Streams:
    """What a parent computed from the calibration items.

    Attributes:
        at: the stream (batch, tokens, d) by point.
        written: what a part added to it, by (layer, kind); of parallel blocks only.
    """

    at: dict[Point, Tensor] = field(default_factory=dict)
    written: dict[tuple[int, Kind], Tensor] = field(default_factory=dict)


def list_points(anatomy: Anatomy) -> set[Point]:
    """Wherever a part of any candidate may read the stream, and its end."""
    kinds = (Kind.ATTENTION,) if anatomy.layout is Layout.PARALLEL else anatomy.parts
    read = {Point(layer, kind) for layer, block in enumerate(anatomy.blocks) for kind in kinds if kind in block.parts}
    return read | {Point(anatomy.depth)}


@torch.inference_mode()
def record_streams(
    model: Any, anatomy: Anatomy, inputs: Mapping[str, Tensor], points: Collection[Point] | None = None
) -> Streams:
    """Run the parent once.

    Args:
        inputs: keyword inputs of the model, all calibration items in one batch.
        points: where the stream is wanted; None for every point.
    """
    streams, points = Streams(), list_points(anatomy) if points is None else points

    batch = len(next(iter(inputs.values())))

    def keep_stream(point: Point) -> Callable[[Tensor], None]:
        return lambda value: streams.at.update({point: reshape_by_item(value, batch)})

    def keep_written(layer: int, kind: Kind) -> Callable[[Tensor], None]:
        return lambda value: streams.written.update({(layer, kind): reshape_by_item(value, batch)})

    blocks: nn.ModuleList = model.get_submodule(anatomy.stack)
    with ExitStack() as stack:
        for layer, block in enumerate(blocks):
            described = anatomy.blocks[layer]
            if Point(layer) in points:
                stack.callback(watch_input(block, keep_stream(Point(layer))))
            for kind, part in described.parts.items():
                if kind is not Kind.ATTENTION and Point(layer, kind) in points:
                    stack.callback(watch_input(block.get_submodule(part.reads), keep_stream(Point(layer, kind))))
            if described.layout is Layout.PARALLEL:
                for kind in described.parts:
                    last = block.get_submodule(described.get_contribution(kind).last)
                    stack.callback(watch_output(last, keep_written(layer, kind)))
        if Point(anatomy.depth) in points:
            stack.callback(watch_output(blocks[-1], keep_stream(Point(anatomy.depth))))
        run_trunk(model, anatomy, inputs)
    return streams


def run_trunk(model: Any, anatomy: Anatomy, inputs: Mapping[str, Tensor]) -> None:
    """A forward pass of a model, or of a candidate, without its head; of a vision tower that is pruned, of it alone."""
    if anatomy.part == Part.VISION:
        run_tower(model, inputs)
        return
    settings = {"use_cache": False} if anatomy.is_decoder else {}
    getattr(model, "base_model", model)(**inputs, **settings)


def reshape_by_item(value: Tensor, batch: int) -> Tensor:
    """States as (batch, tokens, d), also where a block has joined its items to one row of tokens (OPT)."""
    return value.reshape(batch, -1, value.shape[-1])


def watch_input(module: nn.Module, see: Callable[[Tensor], None]) -> Callable[[], None]:
    """Show the first argument of each call of a module; what is returned ends that."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(args[0] if args else next(iter(kwargs.values())))

    return module.register_forward_pre_hook(hook, with_kwargs=True).remove


def watch_output(module: nn.Module, see: Callable[[Tensor], None]) -> Callable[[], None]:
    """Show what each call of a module returns, the first of several; what is returned ends that."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        see(output[0] if isinstance(output, tuple) else output)

    return module.register_forward_hook(hook).remove
