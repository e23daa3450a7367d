"""Blocks that are read by their branches, and those that only go as a whole: drops against modules named by hand."""

import functools
from typing import Any

import pytest
import torch
from other_families import build_experts_beside_mlp

from nas.families.tiny_config import build_tiny_config
from nas.families.trials import build_tiny_model
from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.anatomy.contribution import Layout
from pruning.checkpoint import load, save
from pruning.surgery.prune import prune
from search_spaces import Kind, Unit
from search_spaces.architecture import drop_from_parent
from search_spaces.errors import UnreadableModel

IDS = torch.randint(3, 60, (2, 11), generator=torch.Generator().manual_seed(5))
# What each part writes, by hand: (class, list of blocks, attention's modules, the MLP's).
BRANCHES = {
    "minimax": ("MiniMaxForCausalLM", "model.layers", ["self_attn"], ["mlp"]),
    "fnet": ("FNetForMaskedLM", "fnet.encoder.layer", ["fourier.self"], ["output.dense"]),
    "xmod": (
        "XmodForMaskedLM",
        "roberta.encoder.layer",
        ["attention.output.dense"],
        ["output.dense", "output.adapter_modules.en_XX"],
    ),
}


@functools.cache
def parent(family: str, name: str) -> tuple[Any, Anatomy]:
    model = build_tiny_model(name, build_tiny_config(family))
    return model, read_anatomy(model)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


def zero(module: Any, args: Any, output: Any) -> Any:
    return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)


@pytest.mark.parametrize("family", BRANCHES)
@pytest.mark.parametrize("kind", [Kind.ATTENTION, Kind.MLP])
def test_a_dropped_branch_writes_zeros(family: str, kind: Kind) -> None:
    name, stack, attention, mlp = BRANCHES[family]
    model, anatomy = parent(family, name)
    assert anatomy.layout is Layout.MIXED
    block = model.get_submodule(stack)[1]
    paths = attention if kind is Kind.ATTENTION else mlp
    handles = [block.get_submodule(path).register_forward_hook(zero) for path in paths]
    try:
        expected = logits(model)
    finally:
        for handle in handles:
            handle.remove()
    dropped = prune(model, drop_from_parent(anatomy.depth, {Unit(1, kind)}), anatomy=anatomy)
    assert torch.allclose(logits(dropped), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(expected, logits(model), rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_cache_of_a_familys_own_class_is_kept(tmp_path: Any) -> None:
    model, anatomy = parent("minimax", "MiniMaxForCausalLM")
    dropped = {Unit(0, Kind.ATTENTION), Unit(1, Kind.MLP), Unit(2, Kind.BLOCK)}
    save(prune(model, drop_from_parent(anatomy.depth, dropped), anatomy=anatomy), tmp_path)
    small = load(tmp_path)
    given = small(input_ids=IDS[:, :6], use_cache=True)
    assert "MiniMaxCache" in {each.__name__ for each in type(given.past_key_values).__mro__}
    steps = [given.logits]
    for at in range(6, IDS.shape[1]):
        given = small(input_ids=IDS[:, at : at + 1], use_cache=True, past_key_values=given.past_key_values)
        steps.append(given.logits)
    whole = small(input_ids=IDS, use_cache=False).logits
    assert torch.allclose(torch.cat(steps, 1), whole, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_block_whose_parts_are_not_read_goes_as_a_whole() -> None:
    model, anatomy = parent("mobilebert", "MobileBertForMaskedLM")
    assert [str(choice.unit) for choice in anatomy.choices if choice.kind.in_blocks] == [f"block.{i}" for i in range(4)]
    layers = model.mobilebert.encoder.layer
    handle = layers[2].register_forward_hook(lambda module, args, output: args[0])
    expected = logits(model)
    handle.remove()
    small = prune(model, drop_from_parent(4, {Unit(2, Kind.BLOCK)}), anatomy=anatomy)
    assert len(small.mobilebert.encoder.layer) == 3
    assert torch.equal(logits(small), expected)


@torch.no_grad()
def test_a_mixture_beside_an_mlp_goes_with_its_block() -> None:
    model = build_experts_beside_mlp()
    anatomy = read_anatomy(model)
    assert {choice.kind for choice in anatomy.choices if choice.kind.in_blocks} == {Kind.BLOCK}
    assert anatomy.blocks[0].attention.natures == ("attention", "moe")
    handle = model.model.layers[1].register_forward_hook(lambda module, args, output: args[0])
    expected = model(input_ids=IDS, use_cache=False).logits
    handle.remove()
    small = prune(model, drop_from_parent(4, {Unit(1, Kind.BLOCK)}), anatomy=anatomy)
    assert torch.allclose(small(input_ids=IDS, use_cache=False).logits, expected, rtol=0, atol=1e-5)


def test_what_other_blocks_are_handed_is_not_dropped() -> None:
    """A router of Zaya reads the state of the router before it."""
    _, anatomy = parent("zaya", "ZayaForCausalLM")
    assert {str(choice.unit) for choice in anatomy.choices if choice.kind in (Kind.MLP, Kind.BLOCK)} == {
        "mlp.3",
        "block.3",
    }
    assert {choice.layer for choice in anatomy.choices if choice.kind is Kind.ATTENTION} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("family", "name", "reason"),
    [
        ("xlnet", "XLNetLMHeadModel", r"found \(tokens, batch, hidden\)"),
        ("rwkv", "RwkvForCausalLM", r"found that it changes rwkv\.blocks\.0\.attention\.output\.weight"),
    ],
)
def test_what_would_be_silently_wrong_is_refused(family: str, name: str, reason: str) -> None:
    model = build_tiny_model(name, build_tiny_config(family))
    with pytest.raises(UnreadableModel, match=reason):
        read_anatomy(model)
