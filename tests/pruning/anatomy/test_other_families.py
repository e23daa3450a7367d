"""Families with other blocks: every unit can be dropped, also while decoding, or the model is refused in one line."""

import functools
from typing import Any

import pytest
import torch
from families import filled
from other_families import READ, REFUSED, build

from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.checkpoint import load, save
from pruning.surgery.prune import prune
from search_spaces import Kind, Unit
from search_spaces.architecture import drop_from_parent
from search_spaces.errors import ArchitectureError, UnreadableModel
from search_spaces.level import DROP

IDS = torch.randint(3, 96, (2, 11), generator=torch.Generator().manual_seed(5))
# Where each family adds to the residual stream, written by hand: (blocks, attention's last module, MLP's).
BY_HAND = {
    "falcon": ("transformer.h", "self_attention", "mlp"),
    "falcon, two norms": ("transformer.h", "self_attention", "mlp"),
    "mpt": ("transformer.blocks", "attn", "ffn.down_proj"),
    "bloom": ("transformer.h", "self_attention.dense", "mlp.dense_4h_to_h"),
    "llama4": ("model.layers", "self_attn", "feed_forward"),
    "gpt_oss": ("model.layers", "self_attn", "mlp"),
    "qwen3_5": ("model.layers", "self_attn|linear_attn", "mlp"),
    "qwen3_next": ("model.layers", "self_attn|linear_attn", "mlp"),
    "lfm2": ("model.layers", "self_attn|conv", "feed_forward"),
    "gemma4": ("model.layers", "post_attention_layernorm", "post_feedforward_layernorm"),
    "deepseek_v3": ("model.layers", "self_attn", "mlp"),
    "bamba": ("model.layers", "self_attn|mamba", "feed_forward"),
}
HYBRIDS = ("qwen3_5", "qwen3_next", "lfm2")


@functools.cache
def parent(family: str) -> tuple[Any, Anatomy]:
    model = build(family)
    return model, read_anatomy(model)


@torch.no_grad()
def logits(model: Any, **more: Any) -> torch.Tensor:
    return model(input_ids=IDS, **more).logits


def zeroed(family: str, unit: Unit) -> torch.Tensor:
    """The parent's logits with the unit's output replaced by zeros, or its block's by its input."""
    model, _ = parent(family)
    stack, attention, mlp = BY_HAND[family]
    block = model.get_submodule(stack)[unit.layer]
    paths = (attention if unit.kind is Kind.ATTENTION else mlp).split("|")
    module = next(getattr_path(block, path) for path in paths if has_path(block, path))

    def zero(module: Any, args: Any, output: Any) -> Any:
        return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

    def skip(module: Any, args: Any, output: Any) -> Any:
        return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]

    whole = unit.kind is Kind.BLOCK
    handle = block.register_forward_hook(skip) if whole else module.register_forward_hook(zero)
    try:
        return logits(model, use_cache=False)
    finally:
        handle.remove()


def has_path(module: Any, path: str) -> bool:
    return hasattr(module, path.partition(".")[0])


def getattr_path(module: Any, path: str) -> Any:
    return module.get_submodule(path)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-4 * other.abs().max())


@pytest.mark.parametrize("family", READ)
def test_each_unit_dropped_is_the_parent_with_a_zero_in_its_place(family: str) -> None:
    model, anatomy = parent(family)
    for unit in (choice.unit for choice in anatomy.choices if choice.level == DROP):
        small = prune(model, drop_from_parent(4, {unit}), anatomy=anatomy, share_weights=True)
        assert close(logits(small, use_cache=False), zeroed(family, unit)), unit


@pytest.mark.parametrize("family", HYBRIDS)
@pytest.mark.parametrize("kind", [Kind.ATTENTION, Kind.BLOCK])
def test_a_hybrid_decodes_without_the_attentions_that_count_its_tokens(family: str, kind: Kind) -> None:
    model, anatomy = parent(family)
    full = [layer for layer, name in enumerate(model.config.layer_types) if name == "full_attention"]
    small = prune(model, drop_from_parent(4, (Unit(layer, kind) for layer in full)), anatomy=anatomy)
    assert close(step_by_step(small), logits(small, use_cache=False))


@torch.no_grad()
def step_by_step(model: Any, prompt: int = 6) -> torch.Tensor:
    given = model(input_ids=IDS[:, :prompt], use_cache=True)
    found, past = [given.logits], given.past_key_values
    for index in range(prompt, IDS.shape[1]):
        given = model(input_ids=IDS[:, index : index + 1], past_key_values=past, use_cache=True)
        found.append(given.logits)
        past = given.past_key_values
    return torch.cat(found, dim=1)


def test_a_hybrid_without_full_attention_decodes_after_it_was_written_and_read(tmp_path) -> None:
    model, anatomy = parent("qwen3_5")
    small = prune(model, drop_from_parent(4, {Unit(3, Kind.BLOCK)}), anatomy=anatomy)
    save(small, tmp_path / "folder")
    assert close(step_by_step(load(tmp_path / "folder")), logits(small, use_cache=False))


def test_the_config_s_words_about_blocks_move_with_them(tmp_path) -> None:
    model, anatomy = parent("deepseek_v3")  # its first block is dense
    for layer, dense in ((0, 0), (2, 1)):
        small = prune(model, drop_from_parent(4, {Unit(layer, Kind.BLOCK)}), anatomy=anatomy)
        assert small.config.first_k_dense_replace == dense
        save(small, tmp_path / str(layer))
        assert close(logits(load(tmp_path / str(layer))), logits(small))
    bamba, anatomy = parent("bamba")  # works its layer types out from the indices of its attentions
    small = prune(bamba, drop_from_parent(4, {Unit(0, Kind.BLOCK)}), anatomy=anatomy)
    assert small.config.layer_types == ["full_attention", "linear_attention", "full_attention"]
    llama4, anatomy = parent("llama4")
    small = prune(llama4, drop_from_parent(4, {Unit(0, Kind.BLOCK)}), anatomy=anatomy)
    assert (small.config.moe_layers, llama4.config.moe_layers) == ([0, 2], [1, 3])
    gemma4, anatomy = parent("gemma4")  # has settings for single blocks
    small = prune(gemma4, drop_from_parent(4, {Unit(0, Kind.BLOCK)}), anatomy=anatomy)
    sizes = [gemma4.config.per_layer_config[layer].head_dim for layer in range(4)]
    assert [small.config.per_layer_config[layer].head_dim for layer in range(3)] == sizes[1:]
    assert len(set(sizes)) > 1


def test_windows_of_single_blocks_move_with_them(tmp_path) -> None:
    from transformers import LongformerConfig, LongformerModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = LongformerConfig(**sizes, vocab_size=96, max_position_embeddings=64, attention_window=[4, 8, 16])
    small = prune(filled(lambda: LongformerModel(config)), drop_from_parent(3, {Unit(1, Kind.BLOCK)}))
    assert small.config.attention_window == [4, 16]
    save(small, tmp_path)
    with torch.no_grad():
        assert close(load(tmp_path)(input_ids=IDS)[0], small(input_ids=IDS)[0])


def test_blocks_whose_kind_follows_from_their_place_are_not_taken_out() -> None:
    from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    config = RecurrentGemmaConfig(**sizes, vocab_size=96, num_key_value_heads=2, lru_width=32, attention_window_size=8)
    model = filled(lambda: RecurrentGemmaForCausalLM(config))
    anatomy = read_anatomy(model)
    assert Kind.BLOCK not in {choice.kind for choice in anatomy.choices}
    with pytest.raises(ArchitectureError, match="cannot have it"):
        prune(model, drop_from_parent(4, {Unit(0, Kind.BLOCK)}))
    emptied = prune(model, drop_from_parent(4, {Unit(0, Kind.ATTENTION), Unit(0, Kind.MLP)}), anatomy=anatomy)
    assert len(emptied.model.layers) == 4  # the empty block keeps the places of the others
    handle = model.model.layers[0].register_forward_hook(lambda module, args, output: args[0])
    expected = logits(model, use_cache=False)
    handle.remove()
    assert close(logits(emptied, use_cache=False), expected)


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_other_parts_is_refused_in_one_line(case: str) -> None:
    make, says = REFUSED[case]
    with pytest.raises(UnreadableModel, match=says) as caught:
        read_anatomy(filled(make))
    assert "\n" not in str(caught.value)
