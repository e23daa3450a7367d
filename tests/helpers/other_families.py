"""Tiny models of families whose blocks are put together in other ways than those of `families`."""

from collections.abc import Callable
from typing import Any

import transformers as hf
from families import filled

_TEXT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 96}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 64}
_GQA = {**_TEXT, **_IDS, "num_key_value_heads": 2}
_SLIDING = ["sliding_attention", "full_attention"] * 2
_CONV = ["conv", "full_attention"] * 2
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12}
_EXPERTS = {"moe_intermediate_size": 12, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2}
_GROUPS = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_chunk_size": 16}
_FALCON = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 96}


def _gemma4(**more: Any) -> Any:
    own = {"head_dim": 8, "num_kv_shared_layers": 0, "sliding_window": 8, "hidden_size_per_layer_input": 0}
    return hf.Gemma4ForCausalLM(hf.Gemma4TextConfig(**{**_GQA, **own, "layer_types": _SLIDING, **more}))


def _gemma3n() -> Any:
    own = {"head_dim": 8, "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8, "laurel_rank": 4}
    more = {"num_kv_shared_layers": 2, "sliding_window": 8, "activation_sparsity_pattern": None}
    return hf.Gemma3nForCausalLM(hf.Gemma3nTextConfig(**_GQA, **own, **more, layer_types=_SLIDING))


def _llama4() -> Any:
    sizes = {"head_dim": 8, "intermediate_size_mlp": 56, "num_local_experts": 2, "num_experts_per_tok": 1}
    indices = {"attention_chunk_size": 8, "interleave_moe_layer_step": 2}
    return hf.Llama4ForCausalLM(hf.Llama4TextConfig(**_GQA, **sizes, **indices))


def latent_attention() -> Any:
    """DeepSeek-V3 of two dense blocks: its cache keeps what keys and values are made from."""
    config = {**_GQA, "num_key_value_heads": 4, "num_hidden_layers": 2, **_LATENT, **_EXPERTS, **_GROUPS}
    return filled(lambda: hf.DeepseekV3ForCausalLM(hf.DeepseekV3Config(**{**config, "first_k_dense_replace": 2})))


def _lfm2() -> Any:
    return hf.Lfm2ForCausalLM(hf.Lfm2Config(**_GQA, layer_types=_CONV, block_auto_adjust_ff_dim=False))


def _qwen3_next() -> Any:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
    types = ["linear_attention"] * 3 + ["full_attention"]
    own = {"shared_expert_intermediate_size": 12, "head_dim": 8, "layer_types": types}
    return hf.Qwen3NextForCausalLM(hf.Qwen3NextConfig(**_GQA, **_LINEAR, **experts, **own))


READ: dict[str, Callable[[], Any]] = {
    "falcon": lambda: hf.FalconForCausalLM(hf.FalconConfig(**_FALCON)),
    "falcon, two norms": lambda: hf.FalconForCausalLM(
        hf.FalconConfig(**_FALCON, new_decoder_architecture=True, num_kv_heads=2)
    ),
    "mpt": lambda: hf.MptForCausalLM(hf.MptConfig(d_model=32, n_layers=4, n_heads=4, vocab_size=96, max_seq_len=64)),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(hidden_size=32, n_layer=4, n_head=4, vocab_size=96)),
    "llama4": _llama4,
    "gpt_oss": lambda: hf.GptOssForCausalLM(
        hf.GptOssConfig(
            **_GQA, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=8, layer_types=_SLIDING
        )
    ),
    "qwen3_5": lambda: hf.Qwen3_5ForCausalLM(hf.Qwen3_5TextConfig(**_GQA, **_LINEAR, head_dim=8)),
    "qwen3_next": _qwen3_next,
    "lfm2": _lfm2,
    "gemma4": _gemma4,
    "deepseek_v3": lambda: hf.DeepseekV3ForCausalLM(
        hf.DeepseekV3Config(**{**_GQA, "num_key_value_heads": 4}, **_LATENT, **_EXPERTS, **_GROUPS)
    ),
    "bamba": lambda: hf.BambaForCausalLM(hf.BambaConfig(**_GQA, **_MAMBA, attn_layer_indices=[1, 3])),
}
READ_FAST = ("deepseek_v3", "bamba")  # attention of a latent state, and states in place of keys and values
# What is not read, and what the one line says was looked for.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "four streams": (_gemma3n, r"residual stream of \(batch, tokens, hidden\) and found 4 dimensions, \(4, 2, 7, 32\)"),
    "shared keys": (lambda: _gemma4(num_kv_shared_layers=2), "looked for"),
}


def build_experts_beside_mlp() -> Any:
    """Gemma 4 with a mixture beside each MLP, whose sum is normed: its parts are not read."""
    return filled(lambda: _gemma4(enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=12))


_HYBRID_TYPES = ["linear_attention", "full_attention"] * 2
_SSM = {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 16, "chunk_size": 16, "expand": 2}
_NEMOTRON = {"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 16, "n_groups": 2, "chunk_size": 16}
_ONE_EACH = ["linear_attention", "mlp", "full_attention", "moe"]
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}


def _granite() -> Any:
    scales = {"residual_multiplier": 0.3, "embedding_multiplier": 2.0, "attention_multiplier": 0.2}
    return hf.GraniteForCausalLM(hf.GraniteConfig(**_GQA, **scales))


def _granite_hybrid() -> Any:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 16}
    own = {**_MAMBA, "layer_types": _HYBRID_TYPES, "residual_multiplier": 0.3, "mamba_expand": 2}
    return hf.GraniteMoeHybridForCausalLM(hf.GraniteMoeHybridConfig(**_GQA, **experts, **own))


def _nemotron_h() -> Any:
    own = {**_NEMOTRON, **_ROUTED, "head_dim": 8, "moe_intermediate_size": 16}
    shared = {"moe_shared_expert_intermediate_size": 16, "n_shared_experts": 1, "layers_block_type": _ONE_EACH}
    return hf.NemotronHForCausalLM(hf.NemotronHConfig(**_GQA, **own, **shared))


def _jamba() -> Any:
    own = {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4, "mamba_d_state": 8}
    return hf.JambaForCausalLM(hf.JambaConfig(**_GQA, **own))


def _beit() -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    return hf.BeitForImageClassification(hf.BeitConfig(**sizes, image_size=12, patch_size=4, num_labels=5))


# What blocks are sums of: (model, modules that write attention's share, MLP's); "" where the block has no such part.
SUMS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "granite": (_granite, "self_attn", "mlp"),
    "granite hybrid": (_granite_hybrid, "self_attn|mamba", "block_sparse_moe|shared_mlp"),
    "falcon_h1": (
        lambda: hf.FalconH1ForCausalLM(hf.FalconH1Config(**_GQA, **_MAMBA, head_dim=8, mamba_d_ssm=64)),
        "self_attn|mamba",
        "feed_forward",
    ),
    "jamba": (_jamba, "self_attn|mamba", "feed_forward"),
    "mamba2": (
        lambda: hf.Mamba2ForCausalLM(hf.Mamba2Config(hidden_size=32, num_hidden_layers=4, vocab_size=96, **_SSM)),
        "mixer",
        "",
    ),
    "nemotron_h": (_nemotron_h, "mixer", ""),
    "beit": (_beit, "attention", "mlp|output"),
}


def build(family: str) -> Any:
    """A seeded model in eval mode."""
    return filled(READ[family])
