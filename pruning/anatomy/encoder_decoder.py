"""Encoder-decoders: which of their two stacks is pruned, and what describes it.

Each of the two is a parent of its own; the other one is left as it is. Which one is meant is kept in the model's
config, so copies of the model and its folder know it, too.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from torch import Tensor, nn

from search_spaces.errors import UnreadableModel, UsageError

PART = "nas_part"  # the key in the config
# What configs call the number of blocks; where several are there, all of them are changed.
_DEPTHS = {
    "encoder": ("encoder_layers", "num_encoder_layers", "num_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers"),
}


class Part(StrEnum):
    """The stack of an encoder-decoder that is pruned.

    Example:
        >>> Part("decoder") is Part.DECODER
        True
    """

    ENCODER = "encoder"
    DECODER = "decoder"


def is_encoder_decoder(model: Any) -> bool:
    """Whether a model has an encoder and a decoder that attends to its states."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def select_part(model: Any, part: str | None) -> None:
    """Say which stack of an encoder-decoder is pruned, in place; None leaves it as it is.

    Raises:
        UsageError: no such part, or a model with one stack.
    """
    if part is None:
        return
    if part not in set(Part):
        raise UsageError(f"part {part!r} is none of {', '.join(Part)}")
    if not is_encoder_decoder(model):
        raise UsageError(f"part {part}: {type(model).__name__} has one stack of blocks; leave --part out")
    setattr(model.config, PART, str(part))


def get_part(model: Any) -> Part | None:
    """The stack that is pruned; None for a model that is no encoder-decoder.

    Raises:
        UnreadableModel: an encoder-decoder of which nobody said it.
    """
    if not is_encoder_decoder(model):
        return None
    part = getattr(model.config, PART, None)
    if part is None:
        raise UnreadableModel(
            f"{type(model).__name__} ({model.config.model_type}) has an encoder and a decoder, and each is pruned by "
            "itself; say which with --part encoder or --part decoder"
        )
    return Part(part)


def get_token_mask(model: Any, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """(batch, tokens) of the tokens that the blocks work on, 1 for what is no padding; None where nothing is padded.

    A decoder with an encoder works on the target, any other stack of blocks on what the model is given.
    """
    return inputs.get("decoder_attention_mask" if get_part(model) is Part.DECODER else "attention_mask")


def find_part(model: Any, part: Part) -> nn.Module:
    """The module of a stack: the encoder, or the decoder without the head.

    Raises:
        UnreadableModel: the model does not tell.
    """
    try:
        module = model.get_decoder() if part is Part.DECODER else model.get_encoder()
    except (AttributeError, TypeError, NotImplementedError):
        module = None
    if not isinstance(module, nn.Module) or module is model:
        raise UnreadableModel(f"{type(model).__name__}: looked for its {part} and found none")
    return module


def count_words(model: Any, part: Part) -> int:
    """The tokens that the encoder reads, or that the decoder writes.

    Raises:
        UnreadableModel: no config says it.
    """
    configs = (find_part(model, part).config, model.config)
    count = next((size for config in configs if isinstance(size := getattr(config, "vocab_size", None), int)), None)
    if count is None:
        raise UnreadableModel(f"{type(model).__name__}: looked for the vocab_size of its {part} and found none")
    return count


def find_part_path(model: Any) -> str:
    """The dotted name of the stack that is pruned."""
    part = get_part(model)
    assert part is not None, "only an encoder-decoder has two stacks"
    module = find_part(model, part)
    path: str = next(path for path, each in model.named_modules() if each is module)
    return path


def read_part_config(model: Any, part: Part | None = None) -> Any:
    """A config that describes the blocks of a stack, else of the one that is pruned; for reading only."""
    part = part or get_part(model)
    assert part is not None, "only an encoder-decoder has two stacks"
    own = find_part(model, part).config
    if own is not model.config or part is Part.ENCODER:
        return own
    return own.get_text_config(decoder=True)  # BART has one config for both, with numbers of either


def count_blocks_in_config(model: Any, count: int) -> None:
    """Let the configs of a model and of its pruned stack say that the stack has so many blocks, in place."""
    part = get_part(model)
    assert part is not None, "only an encoder-decoder has two stacks"
    own: Any = find_part(model, part).config
    for config in (model.config, own):
        for name in _DEPTHS[part]:
            if name in vars(config):
                setattr(config, name, count)
    if own is not model.config and "num_layers" in vars(own):  # each stack of a T5 has a config of its own
        own.num_layers = count
