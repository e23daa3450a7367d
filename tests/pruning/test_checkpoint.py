"""What is saved comes back exactly, weighs what is left, and a wrong folder is one clear line."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from families import FAMILIES, build, example
from safetensors.torch import load_file

from pruning.anatomy import read_anatomy
from pruning.checkpoint import load, load_parent, save
from pruning.surgery import prune
from search_spaces import Architecture, Kind, Unit
from search_spaces.errors import ModelError, UnreadableModel, UnsafeCheckpoint

MIXED = Architecture.from_words("mlp removed attn attn+mlp")
BLOCKS = Architecture.from_words("attn+mlp removed removed attn+mlp")


def outputs(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


def tensor_bytes(folder: Path) -> int:
    return sum(t.nbytes for path in folder.glob("*.safetensors") for t in load_file(path).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_is_exact_and_only_as_large_as_what_is_left(family: str, tmp_path: Path) -> None:
    parent = build(family)
    anatomy, inputs = read_anatomy(parent), example(parent)
    save(parent, tmp_path / "parent")
    pruned = prune(parent, MIXED, anatomy=anatomy)
    save(pruned, tmp_path / "pruned")
    again = load(tmp_path / "pruned")
    assert torch.equal(outputs(pruned, inputs), outputs(again, inputs))
    gone = 4 * (parent.num_parameters() - pruned.num_parameters())
    assert tensor_bytes(tmp_path / "parent") - tensor_bytes(tmp_path / "pruned") == gone
    save(again, tmp_path / "again")
    assert torch.equal(outputs(load(tmp_path / "again"), inputs), outputs(pruned, inputs))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt", "bert", "vit"])
def test_whole_blocks_load_with_the_plain_classes(family: str, tmp_path: Path) -> None:
    parent = build(family)
    pruned, inputs = prune(parent, BLOCKS), example(parent)
    save(pruned, tmp_path)
    plain, info = getattr(transformers, type(parent).__name__).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert plain.config.num_hidden_layers == 2
    assert torch.equal(outputs(plain.eval(), inputs), outputs(pruned, inputs))
    assert "nas" not in (tmp_path / "config.json").read_text()


def test_the_plain_classes_refuse_a_partly_pruned_folder(tmp_path: Path) -> None:
    save(prune(build("llama"), MIXED), tmp_path)
    with pytest.raises(ValueError, match="nas_llama"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_the_asked_precision_wins_over_the_folder_s(tmp_path: Path) -> None:
    save(build("llama").to(torch.bfloat16), tmp_path)
    assert load_parent(tmp_path).dtype == torch.float32
    assert load(tmp_path).dtype == torch.bfloat16


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model = build("bert")
    model.config.architectures = ["BertForMaskedLM"]
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpoint, match="pickled weights"):
        load_parent(tmp_path)


def test_remote_code_is_refused_unless_allowed(tmp_path: Path) -> None:
    save(build("llama"), tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**document, "auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(UnsafeCheckpoint, match="--trust-remote-code"):
        load_parent(tmp_path)


def test_encoder_decoder_models_are_refused_by_name(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_heads": 4, "num_layers": 2, "vocab_size": 96}
    transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(UnreadableModel, match="t5"):
        load_parent(tmp_path)


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _lose_a_tensor(folder: Path) -> None:
    from safetensors.torch import save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_truncate, "cannot be loaded"),
        (_lose_a_tensor, "lacks 1 weights .*model.norm.weight"),
        (lambda folder: (folder / "config.json").write_text("{"), "is no JSON"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no \\*.safetensors"),
    ],
)
def test_damaged_folders_are_one_clear_line(damage, says: str, tmp_path: Path) -> None:
    save(build("llama"), tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=says) as caught:
        load_parent(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "nowhere"])
def test_a_missing_folder_is_never_looked_up_at_a_hub(source: str) -> None:
    with pytest.raises(ModelError, match="no folder here"):
        load_parent(source)


def test_a_pruned_folder_is_no_parent(tmp_path: Path) -> None:
    save(prune(build("llama"), Architecture.parent(4).drop(Unit(0, Kind.MLP))), tmp_path)
    with pytest.raises(ModelError, match="pruned already"):
        load_parent(tmp_path)
