"""The config and the place of the blocks that are pruned: a model's own, or those of one of its parts."""

from typing import Any

import torch

from pruning.anatomy.encoder_decoder import find_part_path, read_part_config
from pruning.anatomy.part import is_encoder_decoder, is_vision_language, prunes_vision
from pruning.anatomy.vision import find_tower_path


def is_vision_tower(model: Any) -> bool:
    """Whether of two configs, for images and for text, a model has only the vision tower, as image classifiers do."""
    config = model.config
    if not (hasattr(config, "vision_config") and hasattr(config, "text_config")) or is_vision_language(model):
        return False
    of_text = any(isinstance(getattr(module, "config", None), type(config.text_config)) for module in model.modules())
    return model.main_input_name == "pixel_values" and not of_text


def find_language_config(model: Any) -> Any:
    """The config that describes the blocks: the text config of a model that has other parts besides its language model,
    the vision config of one that has only that tower or whose tower is pruned, else the model's own.

    Of an encoder-decoder it is one of the stack that is pruned (`read_part_config`).
    """
    config = model.config
    if is_vision_tower(model) or prunes_vision(model):
        return config.vision_config
    return find_word_config(model)


def find_word_config(model: Any) -> Any:
    """The config that says which tokens a model reads and how many: the text config of one that has other parts besides
    its language model, else its own; of an encoder-decoder that of the stack that is pruned."""
    config = model.config
    if is_encoder_decoder(model):
        return read_part_config(model)
    if is_vision_language(model) or _is_composite(config):
        return config.get_text_config()
    return config


def find_image_config(model: Any) -> Any:
    """The config of an image model, or of a vision tower that is pruned, that says how large images are."""
    inner = is_vision_tower(model) or prunes_vision(model)
    return model.config.vision_config if inner else model.config


def _is_composite(config: Any) -> bool:
    """Whether a config has no blocks of its own but a config for a language model that has."""
    own = getattr(config, "num_hidden_layers", None)
    return own is None and getattr(config, "text_config", None) is not None


def find_block_config(model: Any, index: int) -> Any:
    """The config of one block, where blocks have settings of their own; else `find_language_config`."""
    config = find_language_config(model)
    return config.per_layer_config[index] if getattr(config, "is_heterogeneous", False) else config


def find_language_path(model: Any) -> str:
    """The dotted name of the module that owns the blocks' stack where a model has other parts or stacks; "" for any
    other."""
    if is_encoder_decoder(model):
        return find_part_path(model)
    if prunes_vision(model):
        return find_tower_path(model)
    config = find_language_config(model)
    if config is model.config or is_vision_tower(model):
        return ""
    decoder = model.get_decoder()
    if decoder is None or decoder is model or getattr(decoder, "config", None) is model.config:
        owners = (path for path, module in model.named_modules() if getattr(module, "config", None) is config)
        return next(owners, "")
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
    except (AttributeError, TypeError, ValueError, RuntimeError, LookupError):  # it asks for more than an image
        return None
    return len(features[0])
