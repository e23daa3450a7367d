"""Tiny configs of any family that Transformers has: sizes are shrunk by the names of their fields.

A config's own rules derive the rest. Where a family needs more than its names tell, `OVERRIDES` says it.
"""

import dataclasses
import re
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

HIDDEN, INNER, HEADS, KEY_HEADS, HEAD_SIZE, DEPTH, TOWER_DEPTH = 32, 48, 4, 2, 8, 4, 2
VOCABULARY, POSITIONS, IMAGE, PATCH, EXPERTS = 128, 64, 16, 4, 4
COUNTS_BLOCKS = r"num_hidden_layers|n_layers?|num_layers|depth|layers|(num_)?(en|de)coder_layers"
# The first pattern that a field's whole name fits says how large it becomes; None: as the family has it.
RULES: tuple[tuple[str, int | None], ...] = (
    (COUNTS_BLOCKS, DEPTH),
    (r"hidden_size_per_layer_input", 8),
    (r"vocab_size(_per_layer_input)?|codebook_size|.*_vocab_size", VOCABULARY),
    (r"type_vocab_size|task_type_vocab_size|additional_vocab_size", None),
    (r"(max_|num_)?position_embeddings|max_(seq_len|source_positions|target_positions)|n_positions|n_ctx", POSITIONS),
    (r"max_position_embeddings|num_position_embeddings|max_2d_position_embeddings|context_length", POSITIONS),
    (r"num_key_value_heads|num_kv_heads|kv_n_heads|.*_num_key_value_heads", KEY_HEADS),
    (r"linear_num_(key|value)_heads|linear_num_heads|index_n_heads|n_mamba_heads", 2),
    (r"mamba_n_heads|mamba_num_heads", 8),
    (r"mamba_(d_head|head_dim)|.*head_dim|.*head_size|d_kv|d_head|dim_head|resampler_dim_head|kv_channels", HEAD_SIZE),
    (r"rotary_dim|attention_head_dim", HEAD_SIZE),
    (r"n_heads?|num_heads|.*attention_heads|attention_heads|resampler_n?_?heads", HEADS),
    (r"(mamba_d_state|state_size|ssm_state_size|mamba_d_ssm)", 16),
    (r"moe_intermediate_size|moe_hidden_size|(moe_)?shared_expert_intermediate_size|expert_ffn_hidden_size", 16),
    (r"share_expert_dim|shared_intermediate_size", 16),
    (r".*intermediate_size(_mlp)?|.*ffn_dim|d_ff|dff|dim_ff|d_inner|mlp_dim|ffn_hidden_size|feed_forward_size", INNER),
    (r"(num|n)_(local_|routed_)?experts|moe_num_experts|zero_expert_num|num_experts", EXPERTS),
    (r"num_experts_per_tok|moe_topk|moe_top_k|moe_k|top_k_experts|top_k", 2),
    (r"n_shared_experts|num_shared_experts|moe_num_shared_experts|n_group|topk_group", 1),
    (r"kv_lora_rank|q_lora_rank|o_lora_rank|time_step_rank|mamba_dt_rank|laurel_rank|adapter_rank|hc_lowrank", 16),
    (r"qk_rope_head_dim|v_head_dim|index_head_dim", HEAD_SIZE),
    (r"first_k_dense_replace|num_dense_layers", 1),
    (r"sliding_window(_size)?|attention_chunk_size|local_attention|attention_window(_size)?|.*chunk_size", 8),
    (r"num_kv_shared_layers", 2),
    (r"image_size|crop_size|resolution|max_img_size", IMAGE),
    (r"patch_size", PATCH),
    (r"rel_extent|n_mel_bins|mel_vocab_size|projection_hidden_dim|.*_out_channel", HIDDEN),
    (
        r"(hidden|d)_(size|model)|n_embd|(embed|emb)_dim|dim|embedding_(size|dim)|.*_hidden_size|hidden_size_global",
        HIDDEN,
    ),
    (
        r"projection_(dim|size)|.*embed(ding)?_size|hidden_dim|(vision_)?output_dim|projector_.*put_dim|lru_width",
        HIDDEN,
    ),
    (r"word_embed_proj_dim|.*embed_dim|d_embed|backbone_hidden_size|pooler_output_size|.*_proj_size", HIDDEN),
    (r"(base|latent|stem|output|post_conv_.*|nemo_conv|ext_pw_out)_channels?|num_embeddings|out_channels", HIDDEN),
)
LISTS = ("layer_types", "mlp_layer_types", "layers_block_type", "block_types", "indexer_types")
ROTARY = {"rope_type": "default", "rope_theta": 1e4}
ROTARY_BY_TYPE = {"full_attention": ROTARY, "sliding_attention": ROTARY}
MAMBA_2 = {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_expand": 2}
SECTIONS = {"rope_parameters": {**ROTARY, "mrope_section": [2, 1, 1]}}  # of positions in time, height and width
OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text", "glm4v_text", "glm_ocr_text", "paddleocr_vl_text"),
        SECTIONS,
    ),
    "glm4v_moe_text": {"rope_parameters": {**ROTARY, "partial_rotary_factor": 0.5, "mrope_section": [2, 0, 0]}},
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {"encoder_hash_byte_group_vocab": VOCABULARY, "encoder_hash_byte_group_size": [3, 4]},
    "cohere_compass_text": {"rope_parameters": ROTARY_BY_TYPE},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "deepseek_ocr2_text": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"num_key_value_heads": HEADS},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "esmc": {"num_key_value_heads": HEADS},
    "falcon_h1": MAMBA_2,
    "gemma3n_text": {"intermediate_size": INNER, "activation_sparsity_pattern": None},
    "glm5_next_text": {"num_key_value_heads": HEADS},
    "gpt_neo": {"attention_types": [[["global", "local"], DEPTH // 2]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "granite4_vision": {"deepstack_layer_map": [[-1, 0]], "spatial_target_layers": [1]},
    "hunyuan_v1_dense": {"head_dim": HEAD_SIZE},
    "hunyuan_v1_moe": {"head_dim": HEAD_SIZE},
    "hunyuan_vl_text": {"head_dim": HEAD_SIZE},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": HEAD_SIZE, "n_groups": 2},
    "ministral": {"head_dim": HEAD_SIZE},
    "mobilebert": {"true_hidden_size": HIDDEN, "intra_bottleneck_size": HIDDEN},
    "nemotron": {"num_key_value_heads": KEY_HEADS},
    "neomme": {"head_dim": 16},
    "perceiver": {"d_latents": HIDDEN, "num_self_attends_per_block": DEPTH, "d_model": HIDDEN},
    "reformer": {
        "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
    },
    "swin": {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 2},
    "swinv2": {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 2},
    "donut-swin": {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 2},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},  # a cache of it takes heads of multiples of 16 only
    "xmod": {"default_language": "en_XX"},
}  # fmt: skip


def build_tiny_config(model_type: str, causal: bool = False) -> Any:
    """The config of a family at the size of a toy; towers are half as deep as what is pruned.

    Args:
        causal: an encoder that may also be built as a decoder is to be one.

    Raises:
        Exception: of any kind, from the family's own checks.
    """
    config_class = CONFIG_MAPPING[model_type]
    switches = {"is_decoder": True} if causal and hasattr(config_class, "is_decoder") else {}
    return _shrink(config_class, _build_default(config_class), DEPTH, switches | OVERRIDES.get(model_type, {}))


def shrink_config(config: Any) -> Any:
    """A config of the same form as another, at the size of a toy: its switches and kinds of blocks stay.

    Raises:
        Exception: of any kind, from the family's own checks.
    """
    return _shrink(type(config), config, DEPTH, {})


def _shrink(config_class: Any, whole: Any, depth: int, given: dict[str, Any]) -> Any:
    """A config of a class with every size of `whole` shrunk and every config in it shrunk, too."""
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        value = _read(whole, field)
        if field.name in getattr(config_class, "sub_configs", {}):
            settings[field.name] = _shrink_inner(value, field.name, is_default=whole == _build_default(config_class))
        else:
            small = _shrink_field(field.name, value, depth)
            settings[field.name] = value if small is None and _is_switch(field, value) else small
    _place_tokens(settings, whole)
    if settings.get("num_key_value_heads") and whole.num_key_value_heads == whole.num_attention_heads:
        settings["num_key_value_heads"] = settings["num_attention_heads"]  # as latent attention wants it
    settings |= given
    return config_class(**{name: value for name, value in settings.items() if value is not None})


def _is_switch(field: Any, value: Any) -> bool:
    """Whether a setting says how a model is built rather than how large, and differs from the family's default."""
    return isinstance(value, bool | str | float) and value != field.default


def _build_default(config_class: Any) -> Any:
    try:
        return config_class()
    except Exception:  # some families have no default that passes their own checks
        return None


def _read(whole: Any, field: Any) -> Any:
    try:
        return getattr(whole, field.name)
    except Exception:  # not there, or different from block to block
        return None if field.default is dataclasses.MISSING else field.default


def _shrink_inner(config: Any, name: str, is_default: bool) -> Any:
    """Of what is in another config: its text model is as deep as what is pruned, towers are not."""
    if not isinstance(config, PreTrainedConfig):
        return None
    depth = DEPTH if "text" in name or "language" in name else TOWER_DEPTH
    return _shrink(type(config), config, depth, OVERRIDES.get(config.model_type, {}) if is_default else {})


def _shrink_field(name: str, value: Any, depth: int) -> Any:
    if name in LISTS and isinstance(value, list | tuple) and value:
        kinds = list(dict.fromkeys(value))
        return [kinds[layer % len(kinds)] for layer in range(depth)]
    if isinstance(value, dict) and "mrope_section" in value:
        half = int(HEAD_SIZE * value.get("partial_rotary_factor", 1.0)) // 2
        return {**value, "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        return None
    pattern, small = next((rule for rule in RULES if re.fullmatch(rule[0], name)), ("", None))
    if pattern == COUNTS_BLOCKS:
        return depth
    return None if small is None else min(small, value)


def _place_tokens(settings: dict[str, Any], whole: Any) -> None:
    """Ids of special tokens within the vocabulary, each another one."""
    for place, field in enumerate(dataclasses.fields(whole) if whole is not None else ()):
        value = _read(whole, field)
        named = re.fullmatch(r".*_(token_id|token_index|index|id)", field.name)
        if named and isinstance(value, int) and value >= VOCABULARY:
            settings[field.name] = 64 + place % 60
