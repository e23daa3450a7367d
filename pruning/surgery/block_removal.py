"""Taking whole blocks out of a model and out of its config."""

from collections.abc import Collection
from typing import Any

from torch import nn

from pruning.anatomy.encoder_decoder import count_blocks_in_config
from pruning.anatomy.language_model import find_language_config
from pruning.anatomy.part import is_encoder_decoder
from pruning.surgery.config_blocks import keep_blocks


def number_block(block: nn.Module, index: int) -> None:
    """Tell a block, or a part of one, that it has another place, in place: there it finds its layer of the cache."""
    for module in block.modules():
        for name in ("layer_idx", "layer_id"):  # GPT-Neo says layer_id
            if hasattr(module, name):
                setattr(module, name, index)


def remove_blocks(model: Any, stack: str, removed: Collection[int]) -> None:
    """Take these blocks out, in place.

    Args:
        model: changed.
        stack: the path of its list of blocks.
        removed: indices of blocks.

    Raises:
        ArchitectureError: the config derives the kind of a block from its place.
    """
    if not removed:
        return
    owner, _, name = stack.rpartition(".")
    blocks = model.get_submodule(stack)
    kept = [index for index in range(len(blocks)) if index not in removed]
    setattr(model.get_submodule(owner), name, nn.ModuleList(blocks[index] for index in kept))
    if is_encoder_decoder(model):
        count_blocks_in_config(model, len(kept))
        return
    config = find_language_config(model)
    keep_blocks(config, kept)
    if hasattr(config, "stage_names"):  # a backbone's config names its blocks
        config.stage_names = ["stem", *(f"stage{index}" for index in range(1, len(kept) + 1))]
        config.out_features = [config.stage_names[-1]]
