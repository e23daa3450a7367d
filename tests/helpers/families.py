"""Tiny random models of every family, built from configs, so that errors show: no weight is zero or one."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest
import torch
import transformers as hf

from pruning.anatomy.part import is_encoder_decoder, select_part

_SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
_TEXT = {**_SIZES, "vocab_size": 96, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
_GQA = {**_TEXT, "num_key_value_heads": 2, "pad_token_id": 0}
_ENCODER = {**_TEXT, "pad_token_id": 0, "type_vocab_size": 2}
_IMAGE = {**_SIZES, "image_size": 12, "patch_size": 4, "num_channels": 3}
_HYBRID = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]

DECODERS = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "gpt_neox",
    "phi",
    "opt",
    "mixtral",
)
ENCODERS = ("bert", "roberta", "distilbert", "electra")
VISION = ("vit", "dinov2", "clip", "siglip")
VISION_LANGUAGE = ("llava", "qwen2_vl")
FAMILIES = DECODERS + ENCODERS + VISION + VISION_LANGUAGE
ENCODER_DECODERS = ("t5", "bart", "marian", "whisper")  # of which the decoder is pruned, if no other part is selected

# One family of each layout: norms before, norms around, parallel, one matrix for queries, keys and values, experts,
# norms behind, images without and with a norm in front, images among words.
REPRESENTATIVES = ("llama", "gemma2", "gpt_neox", "gpt2", "mixtral", "bert", "vit", "clip", "qwen2_vl")

IMAGE_ID = 3  # the placeholder of an image token in the vision-language models
_SPECIAL = 8  # ids below are special tokens


def _gemma(**more: Any) -> dict[str, Any]:
    return {**_GQA, "head_dim": 8, "layer_types": _HYBRID, "sliding_window": 8, "query_pre_attn_scalar": 8, **more}


def make(family: str) -> Any:
    """An unseeded model of the family."""
    match family:
        case "llama":
            return hf.LlamaForCausalLM(hf.LlamaConfig(**_GQA))
        case "mistral":
            return hf.MistralForCausalLM(hf.MistralConfig(**_GQA, sliding_window=8))
        case "qwen2":
            return hf.Qwen2ForCausalLM(hf.Qwen2Config(**_GQA))
        case "qwen3":
            return hf.Qwen3ForCausalLM(hf.Qwen3Config(**_GQA, head_dim=8))
        case "gemma2":
            return hf.Gemma2ForCausalLM(hf.Gemma2Config(**_gemma()))
        case "gemma3":
            return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**_gemma()))
        case "phi3":
            return hf.Phi3ForCausalLM(hf.Phi3Config(**_GQA))
        case "mixtral":
            return hf.MixtralForCausalLM(hf.MixtralConfig(**_GQA, num_local_experts=4, num_experts_per_tok=2))
        case "gpt2":
            return hf.GPT2LMHeadModel(
                hf.GPT2Config(
                    n_embd=32, n_layer=4, n_head=4, vocab_size=96, n_positions=64, bos_token_id=1, eos_token_id=2
                )
            )
        case "gpt_neox":
            return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_TEXT))
        case "phi":
            return hf.PhiForCausalLM(hf.PhiConfig(**_TEXT, pad_token_id=0))
        case "opt":
            sizes = {key: value for key, value in _TEXT.items() if key != "intermediate_size"}
            return hf.OPTForCausalLM(hf.OPTConfig(**sizes, ffn_dim=48, word_embed_proj_dim=32, pad_token_id=0))
        case "bert":
            return hf.BertForMaskedLM(hf.BertConfig(**_ENCODER))
        case "roberta":
            return hf.RobertaModel(hf.RobertaConfig(**_ENCODER))
        case "distilbert":
            config = hf.DistilBertConfig(
                dim=32, n_layers=4, n_heads=4, hidden_dim=48, vocab_size=96, max_position_embeddings=64, pad_token_id=0
            )
            return hf.DistilBertForSequenceClassification(config)
        case "electra":
            return hf.ElectraModel(hf.ElectraConfig(**_ENCODER, embedding_size=16))
        case "vit":
            return hf.ViTForImageClassification(hf.ViTConfig(**_IMAGE, num_labels=5))
        case "dinov2":
            return hf.Dinov2Model(hf.Dinov2Config(**_without(_IMAGE, "intermediate_size"), mlp_ratio=2))
        case "clip":
            return hf.CLIPVisionModel(hf.CLIPVisionConfig(**_IMAGE))
        case "siglip":
            return hf.SiglipVisionModel(hf.SiglipVisionConfig(**_IMAGE))
        case "llava":
            tower = hf.CLIPVisionConfig(
                **{**_IMAGE, "hidden_size": 16, "num_attention_heads": 2}
            )  # as deep as the rest
            return hf.LlavaForConditionalGeneration(
                hf.LlavaConfig(
                    vision_config=tower, text_config=_llama(), image_token_index=IMAGE_ID, image_seq_length=9
                )
            )
        case "qwen2_vl":
            return hf.Qwen2VLForConditionalGeneration(_qwen2_vl())
        case "t5" | "umt5" | "bart" | "marian" | "whisper" | "bert2bert":
            return _make_encoder_decoder(family)
    raise KeyError(family)


_PAIR = {"d_model": 32, "vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BOTH = {"encoder_layers": 3, "decoder_layers": 4, "encoder_attention_heads": 2, "decoder_attention_heads": 4}
_STACKS = {**_PAIR, **_BOTH, "encoder_ffn_dim": 48, "decoder_ffn_dim": 64, "decoder_start_token_id": 1}


def _make_encoder_decoder(family: str) -> Any:
    sizes = {"d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 4, "decoder_start_token_id": 0}
    if family == "t5":
        model = hf.T5ForConditionalGeneration(hf.T5Config(**_PAIR, **sizes))
    elif family == "umt5":
        model = hf.UMT5ForConditionalGeneration(hf.UMT5Config(**_PAIR, **sizes))
    elif family == "bert2bert":
        stacks = (hf.BertConfig(**_ENCODER), hf.BertConfig(**_ENCODER))
        model = hf.EncoderDecoderModel(hf.EncoderDecoderConfig.from_encoder_decoder_configs(*stacks))
        model.config.decoder_start_token_id, model.config.pad_token_id = 1, 0
    elif family == "bart":
        model = hf.BartForConditionalGeneration(
            hf.BartConfig(**_STACKS, max_position_embeddings=64, forced_eos_token_id=None)
        )
    elif family == "marian":
        model = hf.MarianMTModel(hf.MarianConfig(**_STACKS, max_position_embeddings=64, forced_eos_token_id=None))
    else:
        sound = {"num_mel_bins": 8, "max_source_positions": 12, "max_target_positions": 64}
        model = hf.WhisperForConditionalGeneration(
            hf.WhisperConfig(**_STACKS, **sound, suppress_tokens=[], begin_suppress_tokens=[])
        )
    select_part(model, "decoder")
    return model


def _llama() -> Any:
    return hf.LlamaConfig(**_GQA)


def _qwen2_vl() -> Any:
    tower = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    rotary = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    marks = {"video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}
    return hf.Qwen2VLConfig(
        text_config={**_GQA, "rope_parameters": rotary}, vision_config=tower, image_token_id=IMAGE_ID, **marks
    )


def _without(settings: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


def mark_rest_slow(cases: Iterable[Any], fast: Collection[Any] = REPRESENTATIVES) -> list[Any]:
    """Parameters of an expensive test, each a value or a tuple of values: all run, the slow ones in `make test-all`."""
    listed = [case if isinstance(case, tuple) else (case,) for case in cases]
    kept = [case if isinstance(case, tuple) else (case,) for case in fast]
    assert any(case in kept for case in listed), "a test has at least one case that is not slow"
    return [pytest.param(*case, marks=() if case in kept else pytest.mark.slow) for case in listed]


def build(family: str, seed: int = 0) -> Any:
    """A seeded model in eval mode; matrices are large enough that every unit matters, vectors are random."""
    return filled(lambda: make(family), seed)


def build_shallow(family: str) -> Any:
    """The same of two blocks, for what takes as long as there are blocks."""
    model = make(family)
    for count in ("num_hidden_layers", "num_decoder_layers", "decoder_layers"):
        if hasattr(model.config, count):
            setattr(model.config, count, 2)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:2]
    return filled(lambda: type(model)(model.config))


@torch.no_grad()
def filled(made: Callable[[], Any], seed: int = 0) -> Any:
    """What `made` gives, with such weights."""
    torch.manual_seed(seed)
    model = made().eval()
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue  # sines of positions, which a model makes anew
        if parameter.ndim >= 2:
            parameter.normal_(0.0, 0.12)
        else:
            parameter.uniform_(0.3, 1.1)
    model.tie_weights()
    return model


def example(model: Any, batch: int = 2, tokens: int = 11, seed: int = 1, images: int = 1) -> dict[str, torch.Tensor]:
    """Random inputs: token ids (batch, tokens) or pixels (batch, 3, 12, 12); of an encoder-decoder source and target.

    For a vision-language model `tokens` words are added behind `images` images a row, of 9 tokens each, with a word
    between two of them.
    """
    generator = torch.Generator().manual_seed(seed)
    if is_encoder_decoder(model):
        return _give_pair(model, batch, tokens, generator)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(batch, 3, 12, 12, generator=generator)}
    if model.config.model_type not in VISION_LANGUAGE:
        return {"input_ids": torch.randint(3, 96, (batch, tokens), generator=generator)}
    words = torch.randint(_SPECIAL, 96, (batch, images + tokens), generator=generator)
    image = torch.full((batch, 9), IMAGE_ID)
    pieces = [piece for at in range(images) for piece in (words[:, at : at + 1], image)]
    ids = torch.cat([*pieces, words[:, images:]], dim=1)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    count = batch * images
    if model.config.model_type == "llava":
        return given | {"pixel_values": torch.randn(count, 3, 12, 12, generator=generator)}
    # 24 x 24 pixels: 6 x 6 patches of (3 channels, 2 frames, 4 x 4), of which 2 x 2 make a token.
    pixels = torch.randn(count * 36, 3 * 2 * 4 * 4, generator=generator)
    grid = torch.tensor([[1, 6, 6]]).expand(count, -1)
    return given | {"pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": (ids == IMAGE_ID).int()}


def _give_pair(model: Any, batch: int, tokens: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A source of `tokens` tokens, or 24 frames of sound, and a target of two tokens fewer."""
    target = torch.randint(3, 96, (batch, tokens - 2), generator=generator)
    if model.main_input_name == "input_features":
        return {"input_features": torch.randn(batch, 8, 24, generator=generator), "decoder_input_ids": target}
    source = torch.randint(3, 96, (batch, tokens), generator=generator)
    return {"input_ids": source, "decoder_input_ids": target}
