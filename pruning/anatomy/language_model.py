"""Which part of a model is pruned: all of it, the language model of one that also sees images, or one of two stacks."""

from typing import Any

import torch

from pruning.anatomy.encoder_decoder import find_part_path, is_encoder_decoder, read_part_config


def is_vision_language(model: Any) -> bool:
    """Whether a model writes text about images: a vision tower, a projector and a decoder, as in LLaVA and Qwen2-VL.

    Contrastive models (CLIP) have two configs as well and write nothing.
    """
    parts = hasattr(model.config, "vision_config") and hasattr(model.config, "text_config")
    return parts and bool(model.can_generate())


def find_language_config(model: Any) -> Any:
    """The config that describes the blocks: a vision-language model's text config, else the model's own.

    Of an encoder-decoder it is one of the stack that is pruned (`read_part_config`).
    """
    if is_encoder_decoder(model):
        return read_part_config(model)
    return model.config.get_text_config() if is_vision_language(model) else model.config


def find_block_config(model: Any, index: int) -> Any:
    """The config of one block, where blocks have settings of their own; else `find_language_config`."""
    config = find_language_config(model)
    return config.per_layer_config[index] if getattr(config, "is_heterogeneous", False) else config


def find_language_path(model: Any) -> str:
    """The dotted name of the module that owns the blocks' stack where a model has other stacks; "" for any other."""
    if is_encoder_decoder(model):
        return find_part_path(model)
    if not is_vision_language(model):
        return ""
    decoder = model.get_decoder()
    path: str = next(path for path, module in model.named_modules() if module is decoder)
    return path


@torch.no_grad()
def count_prompt_image_tokens(model: Any) -> int | None:
    """Tokens that one image makes in the prompt of a vision-language model; None where its size decides.

    Tried with an image of the size that the tower was made for: how many tokens a projector makes of the tower's is
    its own affair.
    """
    config = model.config.vision_config
    size = getattr(config, "image_size", None)
    if not isinstance(size, int):
        return None
    weight = next(model.parameters())
    pixels = torch.zeros(1, getattr(config, "num_channels", 3), size, size, dtype=weight.dtype, device=weight.device)
    try:
        features = model.get_image_features(pixel_values=pixels).pooler_output
    except (AttributeError, TypeError, ValueError, RuntimeError):  # it asks for more than an image
        return None
    return len(features[0])
