"""DeciLM folders, read as engines read them: by `block_configs`, in plain products, without our own modules."""

import json
import re
from pathlib import Path

import pytest
import torch
from deployed_format import write_source
from families import build
from llama_by_hand import attend, gate, norm
from safetensors.torch import load_file, save_file

from nas.formats.decilm import DeciLmFormat, check_schema, compute_width
from nas.formats.source import Source
from nas.progress import Silent
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice
from search_spaces.errors import ExportError

IDS = torch.arange(8, 20)


def run_by_hand(folder: Path) -> torch.Tensor:
    """(tokens, vocabulary) of a folder."""
    config, every = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    every = {name: tensor.float() for name, tensor in every.items()}
    stream, epsilon = every["model.embed_tokens.weight"][IDS], config["rms_norm_eps"]
    for at, block in enumerate(config["block_configs"]):
        prefix = f"model.layers.{at}."
        weights = {name.removeprefix(prefix): each for name, each in every.items() if name.startswith(prefix)}
        if not block["attention"]["no_op"]:
            given = norm(stream, weights["input_layernorm.weight"], epsilon)
            stream = stream + attend(
                given, weights, config["num_attention_heads"], block["attention"]["n_heads_in_group"],
                config["rope_theta"],
            )  # fmt: skip
        if not block["ffn"]["no_op"]:
            given = norm(stream, weights["post_attention_layernorm.weight"], epsilon)
            width = compute_width(block["ffn"]["ffn_mult"], config["hidden_size"])
            assert len(weights["mlp.gate_proj.weight"]) == width
            stream = stream + gate(given, weights)
    head = every["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    return norm(stream, every["model.norm.weight"], epsilon) @ head.T


def export(source: Source, folder: Path) -> Path:
    folder.mkdir()
    DeciLmFormat().export(source, folder, Silent())
    check_schema(folder)
    return folder


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture.parent(4),
        Architecture.from_words("attn+mlp mlp attn removed"),
        Architecture.from_words("removed attn+mlp mlp attn"),
        Architecture(4).drop(Choice.parse("mlp.1:width=0.5"), Choice.parse("attention.2")),
    ],
    ids=lambda value: getattr(value, "words", value),
)
@torch.no_grad()
def test_what_engines_read_is_the_model(architecture: Architecture, tmp_path: Path) -> None:
    source = write_source(tmp_path / "model", architecture=architecture)
    expected = source.model(input_ids=IDS[None]).logits[0]
    assert torch.allclose(run_by_hand(export(source, tmp_path / "decilm")), expected, atol=1e-4)


def test_the_config_class_gives_attributes(tmp_path: Path) -> None:
    from transformers import AutoConfig

    folder = export(write_source(tmp_path / "model"), tmp_path / "decilm")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert [block.attention.no_op for block in config.block_configs] == [False, True, False, False]
    assert AutoConfig.for_model("llama").model_type == "llama"
    written = json.loads((folder / "config.json").read_text())["block_configs"]
    assert config.to_dict()["block_configs"] == written


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("mlp attn+mlp attn+mlp attn+mlp", r"without attention.0.*accepts: attn\+mlp attn\+mlp"),
        ("removed mlp attn+mlp attn+mlp", "without attention.1.*accepts: removed attn"),
    ],
)
def test_a_first_block_without_attention_is_refused_with_the_nearest(architecture: str, words: str) -> None:
    pruned = prune(build("llama"), Architecture.from_words(architecture))
    refusal = DeciLmFormat().find_refusal(Source(pruned, Path(), plain=False))
    assert refusal is not None
    assert re.search(words, refusal.words)


@pytest.mark.parametrize(
    ("family", "words"), [("qwen2", "only decoders of llama"), ("mistral", "a window of 8"), ("gpt2", "only decoders")]
)
def test_other_maths_are_refused(family: str, words: str) -> None:
    refusal = DeciLmFormat().find_refusal(Source(build(family), Path(), plain=True))
    assert refusal is not None
    assert words in refusal.reason


def test_weights_of_fewer_bits_are_refused() -> None:
    pruned = prune(build("llama"), Architecture(4).drop(Choice.parse("mlp.1:bits=w8")))
    refusal = DeciLmFormat().find_refusal(Source(pruned, Path(), plain=False))
    assert refusal is not None
    assert refusal.nearest == Architecture.parent(4)


@pytest.mark.parametrize("fault", ["field", "type", "left over", "width"])
def test_every_field_and_weight_is_checked(fault: str, tmp_path: Path) -> None:
    folder = export(write_source(tmp_path / "model"), tmp_path / "decilm")
    config, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    if fault == "field":
        config["block_configs"][0]["attention"].pop("sparsify")
    elif fault == "type":
        config["block_configs"][1]["attention"]["n_heads_in_group"] = 2  # of one that is not there
    elif fault == "width":
        config["block_configs"][0]["ffn"]["ffn_mult"] *= 2
    else:
        weights["model.layers.1.input_layernorm.weight"] = torch.ones(32)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ExportError, match=r"block_configs|model\.layers"):
        check_schema(folder)
