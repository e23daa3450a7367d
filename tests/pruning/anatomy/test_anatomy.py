"""A model's structure is read alike whatever its weights and precision, and what cannot be read is refused."""

import pytest
import torch
import transformers as hf
from families import FAMILIES, build, make, mark_rest_slow
from torch import nn

from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.anatomy.contribution import Layout
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit
from search_spaces.errors import ArchitectureError, UnreadableModel

SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 96}


def parts(model: nn.Module) -> tuple:
    anatomy: Anatomy = read_anatomy(model)
    return anatomy.layout, anatomy.stack, anatomy.blocks


@pytest.mark.parametrize("family", mark_rest_slow(FAMILIES))
def test_neither_weights_nor_precision_change_what_is_read(family: str) -> None:
    expected = parts(build(family))
    assert parts(make(family)) == expected  # norms and scales of one, biases of zero
    assert parts(build(family).to(torch.bfloat16)) == expected
    assert parts(build(family).half()) == expected


def test_massive_activations_do_not_hide_a_contribution() -> None:
    model = build("llama")
    expected = parts(model)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 3] = 1e6
    assert parts(model) == expected


def test_layer_scales_of_zero_and_empty_matrices_are_read() -> None:
    model = build("dinov2")
    expected = parts(model)
    for block in model.encoder.layer:
        nn.init.zeros_(block.layer_scale1.lambda1)
        nn.init.zeros_(block.mlp.fc2.weight)
    assert parts(model) == expected


# The structure written by hand: (written by, norm before, norms and scales after, norm that closes) of each unit.
BY_HAND = {
    "llama": (("self_attn", "input_layernorm", (), None), ("mlp", "post_attention_layernorm", (), None)),
    "gemma2": (
        ("self_attn", "input_layernorm", ("post_attention_layernorm",), None),
        ("mlp", "pre_feedforward_layernorm", ("post_feedforward_layernorm",), None),
    ),
    "gpt_neox": (("attention", "input_layernorm", (), None), ("mlp", "post_attention_layernorm", (), None)),
    "phi": (("self_attn", "input_layernorm", (), None), ("mlp", "input_layernorm", (), None)),
    "opt": (("self_attn", "self_attn_layer_norm", (), None), ("fc2", "final_layer_norm", (), None)),
    "mixtral": (("self_attn", "input_layernorm", (), None), ("mlp", "post_attention_layernorm", (), None)),
    "bert": (
        ("attention.output.dense", None, (), "attention.output.LayerNorm"),
        ("output.dense", None, (), "output.LayerNorm"),
    ),
    "distilbert": (("attention", None, (), "sa_layer_norm"), ("ffn", None, (), "output_layer_norm")),
    "dinov2": (("attention", "norm1", ("layer_scale1",), None), ("mlp", "norm2", ("layer_scale2",), None)),
}


@pytest.mark.parametrize("family", BY_HAND)
def test_every_block_is_as_written_by_hand(family: str) -> None:
    for block in read_anatomy(build(family)).blocks:
        found = tuple((unit.writes, unit.before, unit.after, unit.closes) for unit in (block.attention, block.mlp))
        assert found == BY_HAND[family]


def test_reading_leaves_the_model_and_the_random_numbers_alone() -> None:
    model = build("gemma2").train()
    model.model.layers[1].eval()  # a frozen block in a model under training
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    read_anatomy(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks


@pytest.mark.parametrize(
    ("make_model", "layout"),
    [
        (lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES, use_parallel_residual=False)), Layout.PRE_NORM),
        (
            lambda: hf.OPTForCausalLM(
                hf.OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, do_layer_norm_before=False, pad_token_id=0)
            ),
            Layout.POST_NORM,
        ),
        (lambda: hf.LlamaModel(hf.LlamaConfig(**SIZES)), Layout.PRE_NORM),
        (lambda: hf.BertForSequenceClassification(hf.BertConfig(**SIZES)), Layout.POST_NORM),
    ],
)
def test_the_layout_follows_the_model_not_the_family_s_name(make_model, layout: Layout) -> None:
    assert read_anatomy(make_model()).layout is layout


def test_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(ArchitectureError, match="0 to 3"):
        read_anatomy(build("llama")).count_parameters(Unit(4, Kind.MLP))


def _t5() -> nn.Module:
    return hf.T5ForConditionalGeneration(
        hf.T5Config(d_model=32, d_ff=48, d_kv=8, num_heads=4, num_layers=2, vocab_size=96)
    )


def _whisper() -> nn.Module:
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 96, "pad_token_id": 0}
    return hf.WhisperModel(hf.WhisperConfig(**sizes, encoder_attention_heads=4, decoder_attention_heads=4))


def _clip() -> nn.Module:
    vision = {key: value for key, value in SIZES.items() if key != "vocab_size"}
    tower = {**vision, "image_size": 12, "patch_size": 4}
    return hf.CLIPModel(hf.CLIPConfig(text_config=SIZES, vision_config=tower))


def _resnet() -> nn.Module:
    return hf.ResNetModel(hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]))


def _albert() -> nn.Module:
    return hf.AlbertModel(hf.AlbertConfig(**SIZES, embedding_size=16, intermediate_size=48))


def _pruned() -> nn.Module:
    return prune(build("llama"), Architecture.parent(4).drop(Unit(0, Kind.ATTENTION)))


@pytest.mark.parametrize(
    ("make_model", "says"),
    [
        (_t5, "T5.* has an encoder and a decoder"),
        (_whisper, "Whisper.* has an encoder and a decoder"),
        (_clip, "CLIPModel .*two towers"),
        (_resnet, "looked for hidden_size in its config"),
        (_albert, "looked for one list of 4 blocks"),
        (_pruned, "Llama.* is pruned already"),
        (lambda: nn.Linear(2, 2), "Linear has no config"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(make_model, says: str) -> None:
    with pytest.raises(UnreadableModel, match=says) as caught:
        read_anatomy(make_model())
    assert "\n" not in str(caught.value)
