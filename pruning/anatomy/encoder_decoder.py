"""Encoder-decoders: the module and the config of each of their two stacks."""

from typing import Any

from torch import nn

from pruning.anatomy.part import Part, get_part
from search_spaces.errors import UnreadableModel

# What configs call the number of blocks; where several are there, all of them are changed.
_DEPTHS = {
    "encoder": ("encoder_layers", "num_encoder_layers", "num_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers"),
}


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
