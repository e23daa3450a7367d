"""What is tried on tiny models of a family, and the command that tells of one config."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from command_line import nas

from nas.families import trials, try_config, try_family
from nas.families.tiny_config import build_tiny_config, shrink_config


def test_a_config_is_shrunk_and_keeps_its_kinds_of_blocks() -> None:
    whole = hf.Qwen3NextConfig(num_hidden_layers=12, tie_word_embeddings=True)
    small = shrink_config(whole)
    assert small.num_hidden_layers == 4
    assert set(small.layer_types) == set(whole.layer_types)
    assert small.tie_word_embeddings
    assert sum(p.numel() for p in hf.Qwen3NextForCausalLM(small).parameters()) < 200_000
    assert whole.num_hidden_layers == 12


def test_towers_are_less_deep_than_the_language_model() -> None:
    config = build_tiny_config("llava")
    assert (config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers) == (4, 2)


@pytest.mark.parametrize(
    ("family", "name"),
    [("granite", "GraniteForCausalLM"), ("siglip", "SiglipForImageClassification"), ("bert", "BertForMaskedLM")],
)
def test_what_works_is_exact_throughout(family: str, name: str) -> None:
    outcome = try_family("", family, name, causal=False)
    assert outcome.is_exact, outcome.words
    assert outcome.units["attention"] == outcome.units["mlp"] > 0
    assert outcome.dropped == "exact"


def test_what_differs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "prune", lambda model, *args, **kwargs: model)  # drops nothing
    outcome = try_config(build_tiny_config("llama"), "LlamaForCausalLM")
    assert outcome.dropped.startswith("12 differ: attention.0 is off by")
    assert not outcome.is_exact


def test_what_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(trials, "read_shape", fail)
    outcome = try_config(build_tiny_config("llama"), "LlamaForCausalLM")
    assert outcome.shape == "crash: ZeroDivisionError: on purpose"
    assert not outcome.is_exact


def test_a_family_that_is_not_read_is_refused_in_words() -> None:
    outcome = try_family("", "resnet", "ResNetForImageClassification", causal=False)
    assert "looked for" in outcome.refused
    assert outcome.words == f"refused: {outcome.refused}"


def write_config(folder: Path, config: Any) -> str:
    config.save_pretrained(folder)
    return str(folder)


def test_the_command_needs_a_config_only(tmp_path: Path) -> None:
    folder = write_config(tmp_path, hf.LlamaConfig(architectures=["LlamaForCausalLM"]))
    done = nas("families", folder, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["family"], found["dropped"], found["decoded"], found["saved"]) == ("llama", *["exact"] * 3)
    planned = nas("analyze", "--model", folder, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "4 attention, 4 block, 4 mlp" in planned.stdout
    assert "parts                 4 attention, 4 mlp" in planned.stdout


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "one", hf.ResNetConfig(architectures=["ResNetForImageClassification"]))
    done = nas("families", folder)
    assert done.returncode == 2
    assert "looked for" in done.stderr
    assert "Traceback" not in done.stderr
    nameless = nas("families", write_config(tmp_path / "other", hf.LlamaConfig()))
    assert nameless.returncode == 2
    assert "names no architectures" in nameless.stderr
