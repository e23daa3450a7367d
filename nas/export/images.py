"""Images in the prompts of exported files: a fixed number of tokens each, put in their places by a gather.

A vision-language model's own way cannot be traced for any number of prompts: it makes a list of the images, compares
their features with the placeholders, and scatters them to wherever those are, which engines do slowly or not at all.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruning.anatomy.language_model import count_prompt_image_tokens
from pruning.anatomy.part import PIXELS, is_vision_language, prunes_vision
from search_spaces.errors import ExportError

_PROJECTOR = "multi_modal_projector"


def count_image_tokens(model: Any) -> int:
    """Tokens of the one image in every prompt of an exported file.

    0 for a model without images, for one whose images make as many tokens as they are large (Qwen2-VL), whose files
    take words only, and where the vision tower is pruned, whose file takes images only.
    """
    words = is_vision_language(model) and not prunes_vision(model)
    return (count_prompt_image_tokens(model) or 0) if words else 0


def check_tower_file(model: Any) -> None:
    """Refuse a vision tower whose file would take more than images of one size.

    Raises:
        ExportError: it does, as the towers of Qwen2-VL, which take patches in rows and their grid.
    """
    if prunes_vision(model) and count_prompt_image_tokens(model) is None:
        raise ExportError(
            f"part vision: the vision tower of {type(model).__name__} takes images of any size, and its file would "
            "need one; search --part language"
        )


def put_image(model: Any, ids: Tensor, tokens: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Prompts (batch, length) with an image of `tokens` tokens behind their first word, and random pixels.

    Raises:
        ExportError: the prompts are too short for it.
    """
    batch, length = ids.shape
    if length <= tokens:
        raise ExportError(
            f"{type(model).__name__} has {tokens} image tokens in a prompt of {length}; give at least seq={tokens + 1}"
        )
    placeholder, config = model.config.image_token_id, model.config.vision_config
    words = ids.where(ids != placeholder, placeholder - 1)
    words[:, 1 : tokens + 1] = placeholder
    shape = (batch, getattr(config, "num_channels", 3), config.image_size, config.image_size)
    return {"input_ids": words, PIXELS: torch.randn(shape, generator=generator)}


class _Placing(TorchFunctionMode):
    """Scattering to the places of a mask as a gather by the count of places so far: no shape depends on values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.masked_scatter:
            return func(*args, **(kwargs or {}))
        into, mask, source = args
        indices = (mask[..., 0].flatten().long().cumsum(0) - 1).clamp(min=0)
        return torch.where(mask, source.index_select(0, indices).reshape(into.shape), into)


class _Together:
    """Features of all images as the one member of a list."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def __iter__(self) -> Iterator[Tensor]:
        return iter([self.features.flatten(0, 1)])


@contextlib.contextmanager
def place_images(model: Any) -> Iterator[None]:
    """Trace a vision-language model with any number of prompts, each with its image, or its tower with images alone."""
    if not (is_vision_language(model) and count_prompt_image_tokens(model)):
        yield
        return
    trunk, placeholder = model.base_model, model.config.image_token_id

    def find_positions(input_ids: Tensor, inputs_embeds: Tensor, image_features: Tensor) -> Tensor:
        there: Tensor = input_ids == placeholder
        return there[..., None]

    projector: nn.Module = getattr(trunk, _PROJECTOR, nn.Identity())
    hook = projector.register_forward_hook(lambda module, args, features: _Together(features))
    trunk.get_placeholder_mask = find_positions
    try:
        with _Placing():
            yield
    finally:
        hook.remove()
        del trunk.get_placeholder_mask
