"""From a model and its anatomy to the numbers that latency models work with."""

from typing import Any

from latency_models.shape import ModelShape
from pruning.anatomy import Anatomy
from pruning.contribution import BlockAnatomy
from pruning.language import is_vision_language, language_config, prompt_image_tokens
from search_spaces.unit import Kind


def shape_of(model: Any, anatomy: Anatomy) -> ModelShape:
    """The sizes of a Hugging Face transformer, read from its config and, for the MLP, from its matrices.

    Those of a vision-language model are its language model's; tower and projector count as stem.
    """
    config = language_config(model)
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or anatomy.hidden_size // heads
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    intermediate, gated = _mlp_sizes(model, anatomy, experts)
    outputs, per_token = _head(model, anatomy)
    blocks = model.get_submodule(anatomy.stack)
    stem = model.num_parameters() - sum(p.numel() for p in blocks.parameters())
    return ModelShape(
        depth=anatomy.depth,
        hidden=anatomy.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        intermediate=intermediate,
        gated=gated,
        outputs=outputs,
        head_per_token=per_token,
        causal=anatomy.is_decoder,
        stem=stem,
        window=_windows(config, anatomy),
        experts=experts,
        active_experts=getattr(config, "num_experts_per_tok", 1) if experts > 1 else 1,
        tokens=_image_tokens(model),
        droppable=prompt_image_tokens(model) if is_vision_language(model) else None,
    )


def _mlp_sizes(model: Any, anatomy: Anatomy, experts: int) -> tuple[int, bool]:
    """(width, gated): a gated MLP has three hidden-by-width matrices, any other two."""
    matrices = sum(p.numel() for p in _mlp_parameters(model, anatomy) if p.ndim >= 2)
    router = experts * anatomy.hidden_size if experts > 1 else 0
    per_expert = (matrices - router) / experts / anatomy.hidden_size
    config = language_config(model)
    known = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", None)
    if isinstance(known, int) and round(per_expert / known) == 3:
        return known, True
    return round(per_expert / 2), False


def _mlp_parameters(model: Any, anatomy: Anatomy) -> list[Any]:
    block: BlockAnatomy = anatomy.blocks[0]
    module = model.get_submodule(anatomy.stack)[0]
    paths = block.contribution(Kind.MLP).members
    return [parameter for path in paths for parameter in module.get_submodule(path).parameters()]


def _head(model: Any, anatomy: Anatomy) -> tuple[int, bool]:
    """(outputs, per token): of the output embeddings, or of the classifier; 0 without a head."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is not None:
        return int(head.weight.shape[0]), True
    classifier = getattr(model, "classifier", None)
    outputs = getattr(model.config, "num_labels", 0) if classifier is not None else 0
    return int(outputs), False


def _windows(config: Any, anatomy: Anatomy) -> tuple[int | None, ...]:
    window = getattr(config, "sliding_window", None)
    if not anatomy.is_decoder or not window:
        return (None,) * anatomy.depth
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * anatomy.depth
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def _image_tokens(model: Any) -> int | None:
    """Patches, and the class token that most image transformers put before them."""
    if model.main_input_name != "pixel_values":
        return None
    size, patch = model.config.image_size, model.config.patch_size
    return int((size // patch) ** 2 + (0 if model.config.model_type.startswith("siglip") else 1))
