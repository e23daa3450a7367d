"""What a model folder names is read from that folder, as safetensors, or not at all."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build, example

from pruning.checkpoint import load, load_parent, save
from pruning.surgery.prune import prune
from search_spaces import Architecture
from search_spaces.errors import ModelError, UnsafeCheckpoint

PARTS = Architecture.from_words("mlp removed attn attn+mlp")


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    build("llama").save_pretrained(folder, max_shard_size="40KB")
    assert (folder / "model.safetensors.index.json").exists()
    return folder


@pytest.fixture
def model(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "model"))


def name_instead(folder: Path, name: str) -> str:
    """Let the index name another file for its first shard; the shard's own name."""
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first = min(index["weight_map"].values())
    index["weight_map"] = {key: name if shard == first else shard for key, shard in index["weight_map"].items()}
    path.write_text(json.dumps(index))
    return first


def test_shards_are_read(model: Path) -> None:
    parent = load_parent(model)
    assert torch.equal(parent(**example(parent))[0], build("llama")(**example(parent))[0])


@pytest.mark.parametrize("name", ["weights.bin", "weights.pt", "weights.safetensors.bin", "weights"])
def test_an_index_that_names_pickles_is_refused_and_nothing_runs(name: str, model: Path) -> None:
    marker = model / "ran"
    (model / name).write_bytes(pickle.dumps(Trap(marker)))
    name_instead(model, name)
    with pytest.raises(UnsafeCheckpoint, match="only safetensors are read"):
        load_parent(model)
    assert not marker.exists()


@pytest.mark.parametrize("location", ["../other/{}", "/{}", "sub/../../other/{}"])
def test_an_index_that_leads_out_of_the_folder_is_refused(location: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = name_instead(model, "x.safetensors")
    shutil.move(model / first, tmp_path / "other" / first)
    name = location.format(first)
    name_instead(model, str(tmp_path / "other" / first) if name.startswith("/") else name)
    with pytest.raises(UnsafeCheckpoint, match="outside of the folder"):
        load_parent(model)


def test_a_link_that_leads_out_of_the_folder_is_refused(model: Path, tmp_path: Path) -> None:
    first = min(path.name for path in model.glob("*.safetensors"))
    shutil.move(model / first, tmp_path / first)
    (model / first).symlink_to(tmp_path / first)
    with pytest.raises(UnsafeCheckpoint, match="a link to a file outside"):
        load_parent(model)


def test_a_link_inside_the_folder_and_a_link_to_the_folder_are_fine(model: Path, tmp_path: Path) -> None:
    first = min(path.name for path in model.glob("*.safetensors"))
    (model / "files").mkdir()
    shutil.move(model / first, model / "files" / first)
    (model / first).symlink_to(Path("files") / first)
    (tmp_path / "link").symlink_to(model)
    assert load_parent(tmp_path / "link").num_parameters()


@pytest.fixture
def cached(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model of a hub id as the hub's cache keeps it: names that lead to blobs."""
    cache = tmp_path / "models--some--llama"
    snapshot = cache / "snapshots" / "0123456789"
    for folder in (snapshot, cache / "blobs", cache / "refs"):
        folder.mkdir(parents=True)
    (cache / "refs" / "main").write_text("0123456789")
    for number, path in enumerate(sorted(sharded.iterdir())):
        shutil.copyfile(path, cache / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return snapshot


def test_the_hub_s_cache_is_read_by_folder_and_by_id(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_parent(cached).num_parameters()
    assert load_parent("some/llama").num_parameters()


def test_pickles_of_a_hub_id_are_refused_too(cached: Path) -> None:
    path = cached / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(index))
    name_instead(cached, "weights.bin")
    with pytest.raises(UnsafeCheckpoint, match="only safetensors"):
        load_parent("some/llama")


def test_a_hub_id_that_is_not_there_is_one_line(cached: Path) -> None:
    with pytest.raises(ModelError, match="'some/other' is no folder here and cannot be fetched") as caught:
        load_parent("some/other")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no index"),
        ("[]", "no index"),
        ('{"metadata": {}, "weight_map": {}}', "no index"),
        ('{"weight_map": {"a": "model.safetensors"}}', "needs metadata"),
        ('{"metadata": {}, "weight_map": {"a": 3}}', "no index"),
        ('{"metadata": {}, "weight_map": {"a": "more.safetensors"}}', "lacks more.safetensors"),
    ],
)
def test_a_damaged_index_is_one_line(content: str, says: str, model: Path) -> None:
    (model / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=says) as caught:
        load_parent(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["adapter_model.bin", "../x.safetensors", "pytorch_model.bin.index.json"])
def test_weights_that_the_config_names_are_held_to_the_same(name: str, model: Path) -> None:
    edit(model, transformers_weights=name)
    with pytest.raises(ModelError):
        load_parent(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation": "some/kernel"},
        {"attn_implementation": "some/kernel@main:name"},
        {"_attn_implementation_internal": "paged|some/kernel"},
        {"attn_implementation": {"": "sdpa", "text_config": "some/kernel"}},
        {"experts_implementation": "some/kernel"},
        {"text_config": {"attn_implementation": "some/kernel"}},
        {"per_layer_config": [{"_attn_implementation": "some/kernel"}]},
    ],
)
@pytest.mark.parametrize("pruned", [False, True])
def test_kernels_of_a_hub_are_refused(changes: dict[str, Any], pruned: bool, model: Path, tmp_path: Path) -> None:
    folder = model
    if pruned:
        save(prune(load_parent(model), PARTS), tmp_path / "pruned")
        folder = tmp_path / "pruned"
    edit(folder, **changes)
    for trusted in (False, True):
        with pytest.raises(UnsafeCheckpoint, match=r"code from a hub .*some/kernel") as caught:
            load(folder, trust_remote_code=trusted)
    assert "\n" not in str(caught.value)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
