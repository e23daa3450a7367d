"""From a model and its anatomy to the numbers that latency models work with."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from latency_models.block_shape import AttentionShape, BlockShape, MlpShape
from latency_models.shape import ModelShape
from nas.parent.block_shapes import read_blocks
from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.encoder_decoder import find_part
from pruning.anatomy.language_model import (
    count_prompt_image_tokens,
    find_block_config,
    find_image_config,
    find_language_config,
)
from pruning.anatomy.part import PIXELS, Part, get_main_input, is_vision_language
from pruning.anatomy.probe import find_stream, make_probe_inputs, record_inputs
from pruning.anatomy.vision import list_called_modules


def read_shape(model: Any, anatomy: Anatomy) -> ModelShape:
    """The sizes of a Hugging Face transformer, read from its modules and from a run on a tiny input.

    Those of a vision-language model are its language model's; tower and projector count as stem. Where its tower is
    pruned they are the tower's, and what is about its blocks and the projector is stem.
    """
    blocks = read_blocks(model, anatomy)
    attention, mlp = _find_first_over_pairs(blocks)
    heads = max(1, attention.heads)
    head_dim = max(1, attention.pair // (2 * heads))
    intermediate, gated = mlp.find_width(anatomy.hidden_size)
    outputs, per_token = _read_head(model, anatomy)
    inside = model.get_submodule(anatomy.stack)
    shape = ModelShape(
        depth=anatomy.depth,
        hidden=anatomy.hidden_size,
        heads=heads,
        kv_heads=max(1, attention.cached // (2 * head_dim)),
        head_dim=head_dim,
        intermediate=intermediate,
        gated=gated,
        outputs=outputs,
        head_per_token=per_token,
        causal=anatomy.is_decoder,
        stem=_count_stem(model, anatomy) - sum(p.numel() for p in inside.parameters()),
        window=_list_windows(model, anatomy),
        experts=max(1, mlp.experts),
        active_experts=max(1, mlp.active),
        tokens=_count_fixed_tokens(model, anatomy),
        droppable=count_prompt_image_tokens(model) if is_vision_language(model) and anatomy.part is None else None,
    )
    return shape if set(blocks) == {shape.alike} else replace(shape, blocks=blocks)


def _count_stem(model: Any, anatomy: Anatomy) -> int:
    """Parameters of the model; of one stack of several those in its file, with the head or projector behind it."""
    if anatomy.part is None:
        return int(model.num_parameters())
    if anatomy.part == Part.VISION:
        called = list_called_modules(model, make_probe_inputs(model, batch=1))
        return sum({id(p): p.numel() for module in called for p in module.parameters(recurse=False)}.values())
    modules = [find_part(model, Part(anatomy.part))]
    if anatomy.part == Part.DECODER and (head := model.get_output_embeddings()) is not None:
        modules.append(head)
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


def _find_first_over_pairs(blocks: Sequence[BlockShape]) -> tuple[AttentionShape, MlpShape]:
    """The parts of the first block that attends to pairs of tokens; where none does, the first of each kind."""
    attentions = [(block.attention, block.mlp) for block in blocks if isinstance(block.attention, AttentionShape)]
    mlps = [block.mlp for block in blocks if isinstance(block.mlp, MlpShape)]
    none = (AttentionShape(0, 0, 0, 0), None)
    attention, mlp = next((pair for pair in attentions if pair[0].pair), next(iter(attentions), none))
    return attention, mlp if isinstance(mlp, MlpShape) else next(iter(mlps), MlpShape(0, 0))


def _read_head(model: Any, anatomy: Anatomy) -> tuple[int, bool]:
    """(outputs, per token): of the output embeddings, or of the classifier; 0 without a head, as an encoder of two."""
    if anatomy.part in (Part.ENCODER, Part.VISION):
        return 0, False
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is not None:
        return int(head.weight.shape[0]), True
    classifier = getattr(model, "classifier", None)
    outputs = getattr(model.config, "num_labels", 0) if classifier is not None else 0
    return int(outputs), False


def _list_windows(model: Any, anatomy: Anatomy) -> tuple[int | None, ...]:
    if not anatomy.is_decoder:
        return (None,) * anatomy.depth
    windows = [
        getattr(find_block_config(model, index), "sliding_window", None) or None for index in range(anatomy.depth)
    ]
    types = getattr(find_language_config(model), "layer_types", None) or ["sliding_attention"] * anatomy.depth
    return tuple(window if kind == "sliding_attention" else None for window, kind in zip(windows, types, strict=True))


def _count_fixed_tokens(model: Any, anatomy: Anatomy) -> int | None:
    """Patches, and the class token that most image transformers put before them; of sound as many as there can be."""
    if anatomy.part == Part.ENCODER and model.main_input_name == "input_features":
        return int(model.config.max_source_positions)
    if get_main_input(model) != PIXELS:
        return None
    if anatomy.part == Part.VISION:
        return _count_tower_tokens(model, anatomy)
    config = find_image_config(model)
    size, patch = getattr(config, "image_size", None), config.patch_size
    if not isinstance(size, int) or not isinstance(patch, int):
        return getattr(config, "num_patches", None)  # images of any form, with as many patches at most
    return int((size // patch) ** 2 + (0 if config.model_type.startswith("siglip") else 1))


def _count_tower_tokens(model: Any, anatomy: Anatomy) -> int | None:
    """The tokens of an image in the blocks of a vision tower; None where its size decides."""
    if count_prompt_image_tokens(model) is None:
        return None
    given = record_inputs(model, model.get_submodule(anatomy.stack))[0]
    return int(find_stream(given).shape[-2])
