"""The vision tower of a model that answers questions about images is pruned: the language model stays."""

import json
from functools import cache

import pytest
import torch
from families import VISION_LANGUAGE, build, example

from pruning import prune, read_anatomy
from pruning.anatomy.part import get_main_input, list_parts, select_part
from pruning.checkpoint import load, load_parent, register, save
from pruning.compensation import CandidateBuilder, CompensationPlan
from search_spaces import Architecture, Choice, Kind, Unit
from search_spaces.errors import ArchitectureError, UsageError
from search_spaces.level import DROP

STACKS = {"llava": "model.vision_tower.encoder.layers", "qwen2_vl": "model.visual.blocks"}
# Where a block's parts write, by hand.
WRITES = {"llava": ("self_attn.out_proj", "mlp.fc2"), "qwen2_vl": ("attn.proj", "mlp.fc2")}


@cache
def parent(family: str, layer: int = -2):
    """A model whose tower is selected, and its anatomy; a llava's projector reads the states of a `layer`."""
    model = build(family)
    if family == "llava":
        model.config.vision_feature_layer = layer
    select_part(model, "vision")
    return model, read_anatomy(model)


@torch.no_grad()
def run(model) -> torch.Tensor:
    return model(**example(model, images=2)).logits


@torch.no_grad()
def run_with_hooks(model, family: str, units: set[Unit]) -> torch.Tensor:
    """The intact model, in which the last matrices of what is dropped give zeros."""

    def give_zeros(module, args, output):
        return torch.zeros_like(output)

    parts = [
        (unit.layer, path)
        for unit in units
        for kind, path in zip((Kind.ATTENTION, Kind.MLP), WRITES[family], strict=True)
        if unit.kind in (kind, Kind.BLOCK)
    ]
    blocks = model.get_submodule(STACKS[family])
    handles = [blocks[layer].get_submodule(path).register_forward_hook(give_zeros) for layer, path in parts]
    try:
        return run(model)
    finally:
        for handle in handles:
            handle.remove()


def list_units(anatomy) -> list[Unit]:
    return [choice.unit for choice in anatomy.choices if choice.level == DROP]


@pytest.mark.parametrize("family", VISION_LANGUAGE)
def test_the_blocks_of_the_tower_are_the_units(family: str) -> None:
    model, anatomy = parent(family)
    assert (anatomy.stack, anatomy.hidden_size, anatomy.part) == (STACKS[family], 16, "vision")
    assert not anatomy.is_decoder
    assert anatomy.head is None
    assert get_main_input(model) == "pixel_values"
    assert list_parts(model) == ("language", "vision")


@pytest.mark.parametrize("family", VISION_LANGUAGE)
def test_every_unit_that_is_dropped_leaves_what_hooks_leave(family: str) -> None:
    model, anatomy = parent(family)
    intact = run(model)
    for unit in list_units(anatomy):
        found = run(prune(model, Architecture.parent(anatomy.depth).drop(unit), anatomy=anatomy))
        expected = run_with_hooks(model, family, {unit})
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, intact, atol=1e-3), unit


@pytest.mark.parametrize(("layer", "read"), [(-1, 4), (-2, 3), (2, 2)])
def test_blocks_that_the_projector_does_not_read_are_no_units(layer: int, read: int) -> None:
    """LLaVA takes the states before the last block: there is nothing to choose for that one, and it stays in place."""
    model, anatomy = parent("llava", layer)
    assert [block.unread for block in anatomy.blocks] == [index >= read for index in range(4)]
    assert {unit.layer for unit in list_units(anatomy)} == set(range(read))
    if layer == 2:  # counted from the front, so a block fewer would let it read the next one
        assert not anatomy.removes_blocks
        return
    assert anatomy.removes_blocks
    small = prune(model, Architecture.parent(4).drop(Unit(0, Kind.BLOCK)), anatomy=anatomy)
    assert len(small.get_submodule(anatomy.stack)) == 3
    torch.testing.assert_close(run(small), run_with_hooks(model, "llava", {Unit(0, Kind.BLOCK)}), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", VISION_LANGUAGE)
def test_saved_folders_load_with_the_same_answers(family: str, tmp_path) -> None:
    model, anatomy = parent(family)
    small = prune(model, Architecture.parent(anatomy.depth).drop(Unit(0, Kind.MLP), Unit(1, Kind.ATTENTION)))
    save(small, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == f"nas_{family}"
    again = load(tmp_path)
    assert torch.equal(run(again), run(small))
    register(tmp_path)
    from transformers import AutoModelForImageTextToText

    assert torch.equal(run(AutoModelForImageTextToText.from_pretrained(tmp_path)), run(small))


@pytest.mark.parametrize("family", VISION_LANGUAGE)
def test_without_whole_blocks_it_is_an_ordinary_folder(family: str, tmp_path) -> None:
    model, anatomy = parent(family)
    small = prune(model, Architecture.parent(anatomy.depth).drop(Unit(1, Kind.BLOCK)))
    save(small, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    depth = {"llava": "num_hidden_layers", "qwen2_vl": "depth"}[family]
    assert (written["model_type"], written["vision_config"][depth]) == (family, anatomy.depth - 1)
    assert "nas_part" not in written
    again = load_parent(tmp_path)
    assert torch.equal(run(again), run(small))


@pytest.mark.parametrize("family", VISION_LANGUAGE)
def test_refitted_projections_bring_the_features_nearer(family: str) -> None:
    """On the items that they are fitted to, a refit never does worse than what was only cut."""
    model, anatomy = parent(family)
    inputs = example(model, batch=6, images=1)
    architecture = Architecture.parent(anatomy.depth).drop(Unit(0, Kind.MLP))
    plan = CompensationPlan("refit", inputs, inputs)
    builders = (CandidateBuilder(model, anatomy, each) for each in (None, plan))
    cut, fitted = (builder.build(architecture, final=True) for builder in builders)
    with torch.no_grad():
        wanted, plain, close = (each(**inputs).logits for each in (model, cut, fitted))
    assert float((close - wanted).norm()) < 0.95 * float((plain - wanted).norm())


def test_parts_that_a_model_does_not_have_are_refused() -> None:
    model = build("llava")
    with pytest.raises(UsageError, match=r"part encoder: Llava.* has the parts language and vision"):
        select_part(model, "encoder")
    select_part(model, "language")
    assert read_anatomy(model).stack == "model.language_model.layers"
    with pytest.raises(UsageError, match="part vision: LlamaForCausalLM has one stack of blocks; leave --part out"):
        select_part(build("llama"), "vision")


def test_a_tower_drops_no_tokens() -> None:
    model, anatomy = parent("llava")
    half = Architecture.parent(4).drop(Choice.parse("tokens.1=0.5"))
    with pytest.raises(ArchitectureError, match="the vision stack of a llava drops no tokens"):
        prune(model, half, anatomy=anatomy)
