"""Which part of a model is pruned: all of it, or the language model of one that also sees images."""

from typing import Any


def is_vision_language(model: Any) -> bool:
    """Whether a model writes text about images: a vision tower, a projector and a decoder, as in LLaVA and Qwen2-VL.

    Contrastive models (CLIP) have two configs as well and write nothing.
    """
    parts = hasattr(model.config, "vision_config") and hasattr(model.config, "text_config")
    return parts and bool(model.can_generate())


def language_config(model: Any) -> Any:
    """The config that describes the blocks: a vision-language model's text config, else the model's own."""
    return model.config.get_text_config() if is_vision_language(model) else model.config


def language_path(model: Any) -> str:
    """The dotted name of the module that owns the blocks' stack in a vision-language model; "" for any other."""
    if not is_vision_language(model):
        return ""
    decoder = model.get_decoder()
    path: str = next(path for path, module in model.named_modules() if module is decoder)
    return path
