"""What is saved comes back exactly, weighs what is left, and a wrong folder is one clear line."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES, build, example, filled, mark_rest_slow
from safetensors.torch import load_file, save_file

from pruning.anatomy.anatomy import read_anatomy
from pruning.checkpoint import is_pruned, load, load_parent, save
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit
from search_spaces.errors import ArchitectureError, ModelError, UnreadableModel, UnsafeCheckpoint

MIXED = Architecture.from_words("mlp removed attn attn+mlp")
BLOCKS = Architecture.from_words("attn+mlp removed removed attn+mlp")


def outputs(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


def tensor_bytes(folder: Path) -> int:
    return sum(t.nbytes for path in folder.glob("*.safetensors") for t in load_file(path).values())


@pytest.mark.parametrize("family", mark_rest_slow(FAMILIES))
def test_round_trip_is_exact_and_only_as_large_as_what_is_left(family: str, tmp_path: Path) -> None:
    parent = build(family)
    anatomy, inputs = read_anatomy(parent), example(parent)
    save(parent, tmp_path / "parent")
    pruned = prune(parent, MIXED, anatomy=anatomy)
    save(pruned, tmp_path / "pruned")
    again = load(tmp_path / "pruned")
    assert torch.equal(outputs(pruned, inputs), outputs(again, inputs))
    dropped = 4 * (parent.num_parameters() - pruned.num_parameters())
    assert tensor_bytes(tmp_path / "parent") - tensor_bytes(tmp_path / "pruned") == dropped
    save(again, tmp_path / "again")
    assert torch.equal(outputs(load(tmp_path / "again"), inputs), outputs(pruned, inputs))


@pytest.mark.parametrize("family", mark_rest_slow(["llama", "gemma2", "gpt2", "opt", "bert", "vit"]))
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
    assert load_parent(tmp_path, torch.float32).dtype == torch.float32
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


def test_an_encoder_decoder_is_refused_as_long_as_nobody_says_which_stack(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_heads": 4, "num_layers": 2, "vocab_size": 96}
    transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(UnreadableModel, match=r"t5.*--part encoder"):
        read_anatomy(load_parent(tmp_path))


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _lose_a_tensor(folder: Path) -> None:
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


_HALF = itertools.product(["llama", "gemma2", "gpt2", "bert", "vit", "mixtral"], [torch.bfloat16, torch.float16])
_HALF_FAST = [("llama", torch.float16), ("bert", torch.bfloat16), ("mixtral", torch.bfloat16)]


@pytest.mark.parametrize(("family", "dtype"), mark_rest_slow(_HALF, _HALF_FAST))
def test_a_half_precision_parent_round_trips_exactly(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    save(build(family), tmp_path / "parent")
    parent = load_parent(tmp_path / "parent", dtype=dtype)
    inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in example(parent).items()}
    for architecture in (MIXED, BLOCKS):
        pruned = prune(parent, architecture)
        save(pruned, tmp_path / architecture.digest)
        again = load(tmp_path / architecture.digest)
        assert again.dtype == dtype
        assert torch.equal(outputs(pruned, inputs), outputs(again, inputs))


@pytest.mark.parametrize("architecture", [MIXED, BLOCKS])
def test_what_stops_a_generation_comes_back_too(architecture: Architecture, tmp_path: Path) -> None:
    parent = build("llama")
    parent.generation_config.eos_token_id = [2, 5]
    save(prune(parent, architecture), tmp_path)
    assert load(tmp_path).generation_config.eos_token_id == [2, 5]


def test_the_tokenizer_s_files_come_along_and_nothing_else(tmp_path: Path) -> None:
    wanted = {"tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}
    wanted |= {"chat_template.jinja", "added_tokens.json", "special_tokens_map.json", "vocab.txt", "merges.txt"}
    wanted |= {"processor_config.json", "preprocessor_config.json"}
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in (*wanted, "pytorch_model.bin", "README.md", "modeling_evil.py"):
        (source / name).write_text("{}")
    save(prune(build("llama"), MIXED), target, companions=source)
    own = {"config.json", "generation_config.json", "model.safetensors"}
    assert {path.name for path in target.iterdir()} == wanted | own


def _qwen3_moe() -> Any:
    """Every second block is dense, by its index."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "intermediate_size": 48}
    config = transformers.Qwen3MoeConfig(**sizes, **experts, head_dim=8, vocab_size=96, decoder_sparse_step=2)
    return filled(lambda: transformers.Qwen3MoeForCausalLM(config))


def _diff_llama() -> Any:
    """Its attention is scaled by a constant that is made from the block's index."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.DiffLlamaConfig(**sizes, intermediate_size=48, vocab_size=96, max_position_embeddings=64)
    return filled(lambda: transformers.DiffLlamaForCausalLM(config))


def _gpt2_scaled_by_place() -> Any:
    config = build("gpt2").config
    config.scale_attn_by_inverse_layer_idx = True
    return filled(lambda: transformers.GPT2LMHeadModel(config))


_BY_PLACE = (_qwen3_moe, _diff_llama, _gpt2_scaled_by_place)
_MOVED = (
    "removed attn+mlp attn+mlp attn+mlp",
    "removed mlp attn+mlp attn+mlp",
    "attn+mlp removed attn mlp",
    "mlp attn+mlp attn removed",
)
_MOVED_FAST = [*zip(_BY_PLACE, _MOVED[1:], strict=True), (_qwen3_moe, _MOVED[0])]


@pytest.mark.parametrize(("make", "words"), mark_rest_slow(itertools.product(_BY_PLACE, _MOVED), _MOVED_FAST))
def test_blocks_that_depend_on_their_place_come_back_as_they_were(
    make: Callable[[], Any], words: str, tmp_path: Path
) -> None:
    parent = make()
    pruned, inputs = prune(parent, Architecture.from_words(words)), example(parent)
    save(pruned, tmp_path / "once")
    again = load(tmp_path / "once")
    assert torch.equal(outputs(again, inputs), outputs(pruned, inputs))
    save(again, tmp_path / "twice")
    assert torch.equal(outputs(load(tmp_path / "twice"), inputs), outputs(pruned, inputs))


@pytest.mark.parametrize("make", mark_rest_slow(_BY_PLACE, _BY_PLACE[::2]))
def test_the_plain_classes_get_a_folder_only_where_they_build_the_same_model(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    parent = make()
    save(prune(parent, Architecture.from_words("removed attn+mlp attn+mlp attn+mlp")), tmp_path / "moved")
    assert is_pruned(tmp_path / "moved")
    last = prune(parent, Architecture.from_words("attn+mlp attn+mlp attn+mlp removed"))
    save(last, tmp_path / "ended")
    assert not is_pruned(tmp_path / "ended")
    plain = type(parent).from_pretrained(tmp_path / "ended").eval()
    assert torch.equal(outputs(plain, example(parent)), outputs(last, example(parent)))


def _edit(key: str, value):
    def damage(folder: Path) -> None:
        document = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**document, key: value}))

    return damage


def _weights(change):
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_weights(lambda w: {**w, "model.norm.weight": torch.ones(16)}), "do not belong together .*norm.weight"),
        (_weights(lambda w: {k: t for k, t in w.items() if k != "lm_head.weight"}), "belong together .*lm_head"),
        (_weights(lambda w: {**w, "more": torch.ones(1)}), "belong together .*more"),
        (_edit("model_type", "nas_nonsense"), "no model can be built"),
        (_edit("architectures", ["pipeline"]), "no model can be built"),
        (_truncate, "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no \\*.safetensors"),
    ],
)
def test_damaged_pruned_folders_are_one_clear_line(damage, says: str, tmp_path: Path) -> None:
    save(prune(build("llama"), MIXED), tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=says) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_record_of_another_depth_is_refused(tmp_path: Path) -> None:
    save(prune(build("llama"), Architecture.from_words("mlp attn+mlp attn attn+mlp")), tmp_path)
    record = Architecture.from_words("mlp attn+mlp attn attn+mlp attn+mlp").to_json()
    _edit("nas_architecture", record)(tmp_path)
    with pytest.raises(ArchitectureError, match="5 blocks"):
        load(tmp_path)


def test_an_architecture_that_names_no_model_class_is_not_called(tmp_path: Path) -> None:
    save(build("roberta"), tmp_path)
    _edit("architectures", ["pipeline"])(tmp_path)
    assert type(load_parent(tmp_path)) is transformers.RobertaModel


def test_a_slip_in_a_folder_s_name_is_never_looked_up_at_a_hub(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no folder here"):
        load_parent("results/winer")


def test_a_winner_of_the_first_release_is_read() -> None:
    """Its config was of the blocks that were left; the logits are those that the first release computed."""
    winner = load(Path(__file__).parents[1] / "frozen" / "winner-1")
    with torch.no_grad():
        logits = winner(input_ids=torch.tensor([[1, 5, 9, 17, 3, 30]])).logits[0, -1, :4]
    assert logits.tolist() == pytest.approx([0.1096, -2.4042, 0.3464, 0.1534], abs=1e-4)


def test_a_winner_of_the_first_release_can_be_saved_again(tmp_path: Path) -> None:
    winner = load(Path(__file__).parents[1] / "frozen" / "winner-1")
    save(winner, tmp_path)
    again, ids = load(tmp_path), torch.tensor([[1, 5, 9, 17]])
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, winner(input_ids=ids).logits)
