"""A vision-language model is pruned in its language model: the tower stays, pictures reach what is left."""

import json
from functools import cache

import pytest
import torch
from families import IMAGE_ID, VISION_LANGUAGE, build, example

from pruning.anatomy.anatomy import read_anatomy
from pruning.anatomy.language_model import find_language_config
from pruning.anatomy.part import is_vision_language
from pruning.checkpoint import load, load_parent, save
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit

WORDS = ("mlp attn removed attn+mlp", "removed attn+mlp removed attn+mlp", "mlp mlp mlp attn", "mlp mlp mlp mlp")
STEPS = 5
SPECIAL = list(range(8))  # a model that says `<image>` cannot be asked again


@pytest.fixture(scope="module")
def parents():
    return cache(build)


def padded(model) -> dict[str, torch.Tensor]:
    """Two rows of two images each; three tokens of padding to the left of the second."""
    inputs = example(model, images=2, tokens=6)
    inputs["input_ids"] = torch.cat([torch.full((2, 3), 0), inputs["input_ids"]], dim=1)
    inputs["input_ids"][0, :3] = torch.tensor([20, 30, 40])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][1, :3] = 0
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE_ID).int()
    return inputs


@torch.no_grad()
def without_cache(model, inputs: dict[str, torch.Tensor], steps: int) -> torch.Tensor:
    """Greedy generation written out: pictures and prompt are read again for every word."""
    given = dict(inputs)
    for _ in range(steps):
        more = {}
        if "image_grid_thw" not in given:  # the other one counts its positions by itself, from the mask
            more["position_ids"] = (given["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        logits = model(**given, **more, use_cache=False).logits[:, -1:]
        logits[..., SPECIAL] = -torch.inf
        chosen = logits.argmax(-1)
        given["input_ids"] = torch.cat([given["input_ids"], chosen], dim=1)
        given["attention_mask"] = torch.cat([given["attention_mask"], torch.ones_like(chosen)], dim=1)
        if "mm_token_type_ids" in given:
            given["mm_token_type_ids"] = (given["input_ids"] == IMAGE_ID).int()
    return given["input_ids"]


@pytest.mark.parametrize("family", VISION_LANGUAGE)
def test_only_the_language_model_is_read(family: str, parents) -> None:
    model = parents(family)
    anatomy = read_anatomy(model)
    assert anatomy.stack == "model.language_model.layers"
    assert (anatomy.depth, anatomy.hidden_size, anatomy.is_decoder) == (4, 32, True)
    assert is_vision_language(model)
    assert not is_vision_language(model.model.language_model)
    assert find_language_config(model) is model.config.text_config


@pytest.mark.parametrize("family", VISION_LANGUAGE)
@pytest.mark.parametrize("words", WORDS)
def test_generating_from_two_images_equals_recomputing_everything(family: str, words: str, parents) -> None:
    model = prune(parents(family), Architecture.from_words(words))
    inputs = padded(model)
    settings = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    settings |= {"suppress_tokens": SPECIAL}
    assert torch.equal(model.generate(**inputs, **settings), without_cache(model, inputs, STEPS))


@pytest.mark.parametrize("family", VISION_LANGUAGE)
def test_pictures_change_what_a_pruned_model_says(family: str, parents) -> None:
    model = prune(parents(family), Architecture.from_words("attn+mlp mlp attn removed"))
    one = example(model)
    other = one | {"pixel_values": one["pixel_values"].flip(0)}  # the pictures of the two rows change places
    with torch.no_grad():
        assert float((model(**one).logits - model(**other).logits)[:, -1].abs().max()) > 1e-3


@pytest.mark.parametrize("family", VISION_LANGUAGE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("words", WORDS[:2])
def test_saved_and_loaded_again(family: str, words: str, dtype: torch.dtype, parents, tmp_path) -> None:
    model = prune(parents(family), Architecture.from_words(words)).to(dtype)
    save(model, tmp_path)
    again = load(tmp_path)
    assert again.dtype is dtype
    weights = again.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    if dtype is torch.float32:  # a model turned to half precision has turned its rotary frequencies, too
        with torch.no_grad():
            assert torch.equal(model(**example(model)).logits, again(**example(model)).logits)


@pytest.mark.parametrize("family", VISION_LANGUAGE)
def test_without_whole_blocks_it_is_an_ordinary_folder(family: str, parents, tmp_path) -> None:
    model = prune(parents(family), Architecture.parent(4).drop(Unit(1, Kind.BLOCK), Unit(2, Kind.BLOCK)))
    save(model, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["model_type"], written["text_config"]["num_hidden_layers"]) == (family, 2)
    again = load_parent(tmp_path)
    inputs = example(model)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)
