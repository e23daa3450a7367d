"""Which part of a model is pruned, where its config describes several."""

from typing import Any

import pytest
import torch
import transformers as hf
from families import filled

from nas.families.tiny_config import build_tiny_config
from pruning.anatomy.anatomy import read_anatomy
from pruning.anatomy.language_model import find_language_config
from pruning.anatomy.probe import make_probe_inputs
from pruning.surgery.prune import prune
from search_spaces import Kind, Unit
from search_spaces.architecture import drop_from_parent
from search_spaces.errors import UnreadableModel

# The class, and where its blocks are, written by hand.
STACKS = {
    "siglip": ("SiglipForImageClassification", "vision_model.layers"),
    "siglip2": ("Siglip2ForImageClassification", "vision_model.layers"),
    "clip": ("CLIPForImageClassification", "vision_model.layers"),
    "fuyu": ("FuyuForCausalLM", "model.language_model.layers"),
    "modernvbert": ("ModernVBertForMaskedLM", "model.text_model.layers"),
}


def make(family: str) -> Any:
    return filled(lambda: getattr(hf, STACKS[family][0])(build_tiny_config(family)))


@pytest.mark.parametrize("family", STACKS)
@torch.no_grad()
def test_the_blocks_of_the_part_that_a_model_has_are_pruned(family: str) -> None:
    model = make(family)
    anatomy = read_anatomy(model)
    assert anatomy.stack.endswith(STACKS[family][1].split(".", 1)[1])
    assert anatomy.depth == find_language_config(model).num_hidden_layers == len(model.get_submodule(anatomy.stack))
    small = prune(model, drop_from_parent(anatomy.depth, {Unit(0, Kind.BLOCK)}), anatomy=anatomy)
    inputs = make_probe_inputs(model)
    first = model.get_submodule(anatomy.stack)[0]

    def hand_on(module: Any, args: Any, output: Any) -> Any:
        return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]

    handle = first.register_forward_hook(hand_on)
    expected = model(**inputs)[0]
    handle.remove()
    assert (small(**inputs)[0] - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_contrastive_models_are_not_one_tower() -> None:
    model = hf.SiglipModel(build_tiny_config("siglip"))
    with pytest.raises(UnreadableModel, match="two towers"):
        read_anatomy(model)


def test_probe_texts_have_no_tokens_that_stand_for_images() -> None:
    model = make("fuyu")
    special = set(range(10, 100))
    model.config.update({f"kind_{token}_token_id": token for token in special})
    drawn = make_probe_inputs(model, batch=8, tokens=32)["input_ids"]
    assert not special & set(drawn.flatten().tolist())
    assert drawn.min() >= 3
