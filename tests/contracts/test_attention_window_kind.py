"""A window of attention with sinks: the parent with a mask that is written down pair by pair."""

import copy
from typing import Any

import pytest
import torch
from families import build, example
from other_families import build as build_other
from unit_kind import DEPTH, ONNX_RUNTIME_OPSET, UnitKindContract, architecture_of, read_parent, run

from pruning.anatomy.anatomy import read_anatomy
from pruning.inference.kv_cache import PrunedCache
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice
from search_spaces.errors import ArchitectureError

SINKS, WINDOW = 4, 4


def mask_by_hand(model: Any, path: str, window: int, start: int = 0) -> None:
    """Let an attention, called without a cache, see what the definition says, whatever mask it is given."""

    def force(module, args, kwargs):
        tokens = kwargs.get("hidden_states", args[0] if args else None).shape[1]
        allowed = torch.zeros(1, 1, tokens, tokens, dtype=torch.bool)
        for query in range(tokens):
            for key in range(start, query + 1):
                allowed[0, 0, query, key] = query - key < window or key - start < SINKS
        if len(args) > 2:  # by position, as GPT-2 is called: states, cache, mask
            return (*args[:2], allowed, *args[3:]), kwargs
        return args, kwargs | {"attention_mask": allowed}

    model.get_submodule(path).register_forward_pre_hook(force, with_kwargs=True)


def generate(model: Any, tokens: torch.Tensor, count: int) -> list[list[int]]:
    settings = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
    return model.generate(input_ids=tokens, **settings).tolist()


@torch.no_grad()
def continue_without_cache(model: Any, tokens: torch.Tensor, count: int) -> list[list[int]]:
    end = model.generation_config.eos_token_id
    for _ in range(count):
        logits = model(input_ids=tokens, use_cache=False).logits[:, -1:]
        logits[..., [] if end is None else [end]] = -torch.inf  # as many tokens as were asked for
        tokens = torch.cat([tokens, logits.argmax(-1)], 1)
    return tokens.tolist()


class TestAttentionWindow(UnitKindContract):
    name = "attention-window"
    choices = (f"attention.1:window={WINDOW}",)
    families = ("llama", "gpt2", "phi3")
    exports = (("llama", ONNX_RUNTIME_OPSET),)
    more_exports = (("gpt2", ONNX_RUNTIME_OPSET),)

    def mask(self, model, family, choice) -> None:
        path = "transformer.h.1.attn" if family == "gpt2" else "model.layers.1.self_attn"
        mask_by_hand(model, path, dict(choice.level.axes)["window"])


FAMILIES = ("llama", "qwen3", "gpt2", "gpt_neox", "phi", "opt")
NAMES = ("attention.0:window=3", "attention.1", "attention.2:window=5")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("names", [NAMES, ("attention.3:window=2",)], ids=["three", "last"])
def test_decoding_is_what_is_computed_at_once(family: str, names: tuple[str, ...]) -> None:
    model = build(family)
    pruned = prune(model, Architecture(DEPTH, frozenset(map(Choice.parse, names))), anatomy=read_anatomy(model))
    for length in (1, 3, 9):
        tokens = example(pruned)["input_ids"][:, :length]
        assert generate(pruned, tokens, 12) == continue_without_cache(pruned, tokens, 12)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_a_padded_row_gives_what_it_gives_alone(family: str) -> None:
    """Its first tokens are the first that are no padding, at once and from a cache, which they outlive."""
    model = build(family)
    pruned = prune(model, Architecture(DEPTH, frozenset(map(Choice.parse, NAMES))), anatomy=read_anatomy(model))
    tokens = example(pruned, tokens=16)["input_ids"]
    for pads in (2, 7, 11):  # of 12, so that one token is left at first
        mask = torch.ones_like(tokens)
        mask[0, :pads] = 0
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            alone = pruned(input_ids=tokens[:1, pads:]).logits[0, -4:]
            together = pruned(input_ids=tokens, attention_mask=mask, position_ids=positions).logits[0, -4:]
            cache, steps = None, []
            for begin, end in ((0, 12), (12, 13), (13, 15), (15, 16)):
                output = pruned(
                    input_ids=tokens[:, begin:end], attention_mask=mask[:, :end],
                    position_ids=positions[:, begin:end], past_key_values=cache, use_cache=True,
                )  # fmt: skip
                cache = output.past_key_values
                steps.append(output.logits[0])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.cat(steps)[-4:], alone, rtol=0, atol=1e-5)


def test_a_cache_holds_the_window_and_the_first_tokens() -> None:
    model, anatomy = read_parent("llama")
    pruned = prune(model, Architecture(DEPTH, frozenset(map(Choice.parse, NAMES))), anatomy=anatomy)
    with torch.no_grad():
        cache = pruned(input_ids=example(pruned, tokens=30)["input_ids"], use_cache=True).past_key_values
    assert isinstance(cache, PrunedCache)
    assert [layer.keys.shape[2] for layer in cache.layers] == [SINKS + 2, SINKS + 4, 30]


def test_a_cache_that_let_tokens_go_takes_none_back() -> None:
    model, anatomy = read_parent("llama")
    pruned = prune(model, architecture_of("attention.1:window=4"), anatomy=anatomy)
    with torch.no_grad():
        cache = pruned(**example(pruned), use_cache=True).past_key_values
    assert not cache.is_croppable
    with pytest.raises(ValueError, match="cannot take tokens back"):
        cache.crop(-1)


def test_heads_and_a_window_go_together() -> None:
    for family in ("llama", "gpt2"):
        model, anatomy = read_parent(family)
        both = prune(model, architecture_of("attention.1:heads=0.5,window=4"), anatomy=anatomy)
        masked = copy.deepcopy(prune(model, architecture_of("attention.1:heads=0.5"), anatomy=anatomy))
        mask_by_hand(masked, "transformer.h.1.attn" if family == "gpt2" else "model.layers.1.self_attn", 4)
        torch.testing.assert_close(run(both), run(masked), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "why"),
    [("bert", "sees what comes later"), ("vit", "no words"), ("mistral", "a window of its own")],
)
def test_attentions_that_cannot_have_one_are_refused(family: str, why: str) -> None:
    model = build(family)
    anatomy = read_anatomy(model)
    assert not any("window" in str(choice) for choice in anatomy.choices), why
    with pytest.raises(ArchitectureError, match=r"attention\.1:window=4: block 1 of .* cannot have it"):
        prune(model, architecture_of("attention.1:window=4"), anatomy=anatomy)


def test_only_the_full_attentions_of_a_hybrid_have_one() -> None:
    anatomy = read_anatomy(build("gemma2"))
    assert {choice.layer for choice in anatomy.choices if "window" in str(choice)} == {1, 3}


@pytest.mark.parametrize("family", ["bloom", "mpt", "falcon"])
def test_positions_that_are_added_to_scores_rule_it_out_or_are_right(family: str) -> None:
    model = build_other(family)
    anatomy = read_anatomy(model)
    if any("window" in str(choice) for choice in anatomy.choices):
        pruned = prune(model, architecture_of("attention.1:window=4"), anatomy=anatomy)
        tokens = example(pruned)["input_ids"]
        assert generate(pruned, tokens, 12) == continue_without_cache(pruned, tokens, 12)
