"""Models of several stacks of blocks, and which of these is pruned: encoder-decoders, models that write about images.

The towers of a dual encoder (CLIP) do not need each other: the one that is pruned is loaded as a model of its own.

Each stack is a parent of its own; the rest of the model is left as it is. Which one is meant is kept in the model's
config, so copies of the model and its folder know it, too.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from torch import Tensor

from search_spaces.errors import UnreadableModel, UsageError

PART = "nas_part"  # the key in the config
PIXELS = "pixel_values"


class Part(StrEnum):
    """The stack of a model that is pruned.

    Example:
        >>> Part("decoder") is Part.DECODER
        True
    """

    ENCODER = "encoder"
    DECODER = "decoder"
    LANGUAGE = "language"
    VISION = "vision"
    TEXT = "text"


def is_encoder_decoder(model: Any) -> bool:
    """Whether a model has an encoder and a decoder that attends to its states."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def is_vision_language(model: Any) -> bool:
    """Whether a model writes text about images, or fills in masked words: a vision tower, a projector and a language
    model, as in LLaVA, Qwen2-VL and ModernVBERT.

    Contrastive models (CLIP) have two configs as well and write nothing.
    """
    parts = hasattr(model.config, "vision_config") and hasattr(model.config, "text_config")
    return parts and (bool(model.can_generate()) or _predicts_words(model))


def _predicts_words(model: Any) -> bool:
    return model.main_input_name == "input_ids" and model.get_output_embeddings() is not None


def list_parts(model: Any) -> tuple[Part, ...]:
    """The stacks of a model of which one is pruned; none for a model with one stack."""
    if is_encoder_decoder(model):
        return (Part.ENCODER, Part.DECODER)
    return (Part.LANGUAGE, Part.VISION) if is_vision_language(model) else ()


def select_part(model: Any, part: str | None) -> None:
    """Say which stack of a model is pruned, in place; None leaves it as it is.

    Raises:
        UsageError: no such part, or a model without it.
    """
    if part is None:
        return
    parts = list_parts(model)
    if part not in set(Part):
        raise UsageError(f"part {part!r} is none of {', '.join(Part)}")
    if not parts:
        raise UsageError(f"part {part}: {type(model).__name__} has one stack of blocks; leave --part out")
    if part not in parts:
        raise UsageError(f"part {part}: {type(model).__name__} has the parts {' and '.join(parts)}; take one of these")
    if part != Part.LANGUAGE:  # which is pruned where nobody says it
        setattr(model.config, PART, str(part))


def get_part(model: Any) -> Part | None:
    """The stack that is pruned where it is not what the model is for; None for a language model, whatever is about it.

    Raises:
        UnreadableModel: an encoder-decoder of which nobody said it.
    """
    chosen = getattr(model.config, PART, None)
    if is_encoder_decoder(model):
        if chosen is None:
            raise UnreadableModel(
                f"{type(model).__name__} ({model.config.model_type}) has an encoder and a decoder, and each is pruned "
                "by itself; say which with --part encoder or --part decoder"
            )
        return Part(chosen)
    return Part.VISION if prunes_vision(model) else None


def prunes_vision(model: Any) -> bool:
    """Whether of a model that writes about images the vision tower is pruned, and the language model stays."""
    return getattr(model.config, PART, None) == Part.VISION


def get_main_input(model: Any) -> str:
    """The input that the blocks of the pruned stack work on: that of the model, or the images of a vision tower."""
    return PIXELS if prunes_vision(model) else str(model.main_input_name)


def get_token_mask(model: Any, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """(batch, tokens) of the tokens that the blocks work on, 1 for what is no padding; None where nothing is padded.

    A decoder with an encoder works on the target, a vision tower on images, any other stack of blocks on what the
    model is given.
    """
    part = get_part(model)
    if part is Part.VISION:
        return None
    return inputs.get("decoder_attention_mask" if part is Part.DECODER else "attention_mask")
