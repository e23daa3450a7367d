"""Blocks that are sums in other ways: scaled parts, parts side by side, one part alone, several classes of block."""

import functools
from typing import Any

import pytest
import torch
from families import filled, mark_rest_slow
from other_families import SUMS

from nas.parent.shape import read_shape
from pruning.analysis.redundancy import measure_redundancy
from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.anatomy.fitting import fit_sum
from pruning.checkpoint import load, save
from pruning.surgery.prune import prune
from search_spaces import Kind, Unit
from search_spaces.architecture import drop_from_parent
from search_spaces.level import DROP

IDS = torch.randint(3, 96, (2, 11), generator=torch.Generator().manual_seed(5))


@functools.cache
def parent(family: str) -> tuple[Any, Anatomy]:
    model = filled(SUMS[family][0])
    return model, read_anatomy(model)


@torch.no_grad()
def outputs(model: Any) -> torch.Tensor:
    if model.main_input_name == "pixel_values":
        return model(torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1)))[0]
    return model(input_ids=IDS, use_cache=False)[0]


def overruled(family: str, unit: Unit) -> torch.Tensor:
    """The parent's outputs with the unit's own modules, named by hand, giving zeros, or its block giving its input."""
    model, anatomy = parent(family)
    block = model.get_submodule(anatomy.stack)[unit.layer]

    def zero(module: Any, args: Any, output: Any) -> Any:
        return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

    def skip(module: Any, args: Any, output: Any) -> Any:
        return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]

    names = SUMS[family][1 if unit.kind is Kind.ATTENTION else 2].split("|")
    written = [getattr(block, name) for name in names if getattr(block, name, None) is not None]
    written = written[-1:] if family == "beit" else written  # the second of its modules reads the first
    hooks = (
        [block.register_forward_hook(skip)]
        if unit.kind is Kind.BLOCK
        else [each.register_forward_hook(zero) for each in written]
    )
    try:
        return outputs(model)
    finally:
        for hook in hooks:
            hook.remove()


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-4 * other.abs().max())


@pytest.mark.parametrize("family", SUMS)
def test_each_unit_dropped_is_the_parent_with_a_zero_in_its_place(family: str) -> None:
    model, anatomy = parent(family)
    units = [choice.unit for choice in anatomy.choices if choice.level == DROP]
    assert units
    for unit in units:
        small = prune(model, drop_from_parent(anatomy.depth, {unit}), anatomy=anatomy, share_weights=True)
        assert close(outputs(small), overruled(family, unit)), unit


@pytest.mark.parametrize("family", mark_rest_slow(SUMS, ["granite", "mamba2", "nemotron_h", "falcon_h1"]))
def test_what_is_saved_comes_back(family: str, tmp_path) -> None:
    model, anatomy = parent(family)
    for choice in [choice for choice in anatomy.choices if choice.level == DROP and choice.layer == 1]:
        small = prune(model, drop_from_parent(anatomy.depth, {choice.unit}), anatomy=anatomy)
        save(small, tmp_path / str(choice))
        assert close(outputs(load(tmp_path / str(choice))), outputs(small))


@pytest.mark.parametrize("family", ["mamba2", "nemotron_h"])
def test_a_block_of_one_part_is_a_unit_as_a_whole(family: str) -> None:
    _, anatomy = parent(family)
    assert {choice.kind for choice in anatomy.choices if choice.level == DROP} == {Kind.BLOCK}
    for names in (["attention", "mlp"], ["block"]):
        offered = {choice.layer for choice in anatomy.build_space(names).choices}
        assert offered == {layer for layer, block in enumerate(anatomy.blocks) if names == ["block"] or block.parts}
    only_attentions = {choice.layer for choice in anatomy.build_space(["attention"]).choices}
    assert only_attentions == {layer for layer, block in enumerate(anatomy.blocks) if Kind.ATTENTION in block.parts}


@pytest.mark.parametrize("family", SUMS)
def test_redundancy_and_shapes_are_read_of_the_parts_that_there_are(family: str) -> None:
    model, anatomy = parent(family)
    image = model.main_input_name == "pixel_values"
    batch = {"pixel_values": torch.randn(2, 3, 12, 12)} if image else {"input_ids": IDS}
    found = measure_redundancy(model, [batch], anatomy)
    for layer, block in enumerate(anatomy.blocks):
        if not block.has_both:
            has_attention = Kind.ATTENTION in block.parts
            own, lacking = (found.attention, found.mlp) if has_attention else (found.mlp, found.attention)
            assert own[layer] == pytest.approx(found.block[layer], abs=1e-6)
            assert lacking[layer] == pytest.approx(1.0)
    shapes = read_shape(model, anatomy)
    for layer, block in enumerate(anatomy.blocks):
        assert set(shapes.get_block(layer).parts) == set(block.parts)


def test_the_stream_between_scaled_parts_is_the_one_that_the_next_part_reads() -> None:
    model, anatomy = parent("granite")
    seen: dict[str, torch.Tensor] = {}
    block = model.model.layers[1]
    hooks = [
        block.register_forward_pre_hook(lambda module, args: seen.update(before=args[0])),
        block.post_attention_layernorm.register_forward_pre_hook(lambda module, args: seen.update(after=args[0])),
    ]
    outputs(model)
    for hook in hooks:
        hook.remove()
    expected = torch.nn.functional.cosine_similarity(seen["before"], seen["after"], dim=-1).mean()
    found = measure_redundancy(model, [{"input_ids": IDS}], anatomy)
    assert found.attention[1] == pytest.approx(float(expected), abs=1e-6)


def test_what_is_scaled_by_a_number_or_by_a_parameter_of_the_block_can_be_refitted() -> None:
    """Granite's multiplier is in its code; the scales of a BEiT are weights, and the block that is tried has others."""
    granite, beit = (parent(family)[1].blocks[1] for family in ("granite", "beit"))
    assert [(part.projection, pytest.approx(0.3, rel=1e-5)) for part in granite.parts.values()] == [
        ("self_attn.o_proj", granite.attention.factor),
        ("mlp.down_proj", granite.mlp.factor),
    ]
    assert [(part.projection, part.scale, part.factor) for part in beit.parts.values()] == [
        ("attention.o_proj", "lambda_1", 1.0),
        ("mlp.fc2", "lambda_2", 1.0),
    ]


def test_a_sum_is_found_with_a_constant_for_each_channel() -> None:
    generator = torch.Generator().manual_seed(3)
    first, second, other = (torch.randn(14, 8, generator=generator) for _ in range(3))
    scale = torch.linspace(0.1, 2, 8)
    found = fit_sum(first - scale * second, [first, second, other])
    assert found is not None
    assert found[2] is None
    torch.testing.assert_close(found[0], torch.ones(8).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], -scale.double(), atol=1e-5, rtol=0)
    assert fit_sum(first * second, [first, second, other]) is None
    assert fit_sum(first[:3], [first[:3], second[:3], other[:3]]) is None  # as many unknowns as rows say nothing
