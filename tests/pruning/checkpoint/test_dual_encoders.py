"""Each tower of a dual encoder is loaded as a model of its own, and gives what the whole model makes of its input."""

from pathlib import Path

import pytest
import torch
import transformers as hf
from families import filled

from pruning import prune, read_anatomy
from pruning.checkpoint import load, load_parent, save
from search_spaces import Architecture, Kind, Unit
from search_spaces.errors import UsageError

_SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
_TEXT = {**_SIZES, "vocab_size": 96, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
_IMAGE = {**_SIZES, "image_size": 12, "patch_size": 4}
_IDS = torch.tensor([[1, 20, 30, 40, 95, 2], [1, 50, 60, 95, 2, 2]])
CASES = [
    ("clip", "text", "CLIPTextModelWithProjection"),
    ("clip", "vision", "CLIPVisionModelWithProjection"),
    ("siglip", "text", "SiglipTextModel"),
    ("siglip", "vision", "SiglipVisionModel"),
]


def make(family: str):
    towers = {"text_config": _TEXT, "vision_config": _IMAGE}
    if family == "siglip":
        towers["text_config"] = {**_TEXT, "projection_size": 32}
        return hf.SiglipModel(hf.SiglipConfig(**towers))
    towers = {name: {**sizes, "projection_dim": 16} for name, sizes in towers.items()}
    return hf.CLIPModel(hf.CLIPConfig(**towers, projection_dim=16))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {family: tmp_path_factory.mktemp(family) for family in ("clip", "siglip")}
    for family, folder in made.items():
        filled(lambda family=family: make(family)).save_pretrained(folder)
    return made


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::search_spaces.errors.UnusedWeights")
@pytest.mark.parametrize(("family", "part", "name"), CASES)
def test_a_tower_is_loaded_pruned_and_saved_by_itself(family, part, name, folders, tmp_path) -> None:
    whole, tower = load_parent(folders[family]), load_parent(folders[family], part=part)
    assert type(tower).__name__ == name
    if part == "vision":
        given = {"pixel_values": torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))}
        wanted = whole.get_image_features(**given)
    else:
        given = {"input_ids": _IDS}
        wanted = whole.get_text_features(**given)
    found = tower(**given)
    given_by = ("image_embeds", "text_embeds", "pooler_output")
    vectors = next(value for key in given_by if (value := found.get(key)) is not None)
    torch.testing.assert_close(vectors, getattr(wanted, "pooler_output", wanted))
    anatomy = read_anatomy(tower)
    assert (anatomy.depth, anatomy.is_decoder) == (3, False)
    small = prune(tower, Architecture.parent(3).drop(Unit(0, Kind.ATTENTION), Unit(1, Kind.MLP)), anatomy=anatomy)
    save(small, tmp_path)
    assert torch.equal(load(tmp_path)(**given)[0], small(**given)[0])


@pytest.mark.filterwarnings("ignore::search_spaces.errors.UnusedWeights")
def test_parts_are_those_of_the_model(folders) -> None:
    with pytest.raises(UsageError, match="part language: CLIPModel has the parts text and vision"):
        load_parent(folders["clip"], part="language")
