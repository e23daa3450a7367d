"""Models whose class is in their own folder: read, pruned, saved and read again, with the flag only."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build, example

from pruning.checkpoint import is_pruned, load, load_parent, save
from pruning.surgery.prune import prune
from search_spaces import Architecture
from search_spaces.errors import UnsafeCheckpoint

CONFIG = """
from transformers import LlamaConfig

class TwiceConfig(LlamaConfig):
    model_type = "twice"
"""
MODEL = """
from transformers import LlamaForCausalLM, LlamaModel
from .configuration_twice import TwiceConfig

class TwiceModel(LlamaModel):
    config_class = TwiceConfig

class TwiceForCausalLM(LlamaForCausalLM):
    config_class = TwiceConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = 2 * output.logits
        return output
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("twice")
    build("llama").save_pretrained(made)
    (made / "configuration_twice.py").write_text(CONFIG)
    (made / "modeling_twice.py").write_text(MODEL)
    document = json.loads((made / "config.json").read_text())
    names = {"AutoConfig": "configuration_twice.TwiceConfig", "AutoModel": "modeling_twice.TwiceModel",
             "AutoModelForCausalLM": "modeling_twice.TwiceForCausalLM"}  # fmt: skip
    changes = {"model_type": "twice", "architectures": ["TwiceForCausalLM"], "auto_map": names}
    (made / "config.json").write_text(json.dumps({**document, **changes}))
    return made


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**example(build("llama")))[0]


def test_the_class_that_the_config_names_is_taken(folder: Path) -> None:
    parent = load_parent(folder, trust_remote_code=True)
    assert type(parent).__name__ == "TwiceForCausalLM"
    assert torch.equal(outputs(parent), 2 * outputs(build("llama")))


@pytest.mark.parametrize(
    ("words", "own"), [("mlp removed attn attn+mlp", True), ("attn+mlp removed attn+mlp attn+mlp", False)]
)
def test_what_is_left_comes_back_with_the_flag_only(words: str, own: bool, folder: Path, tmp_path: Path) -> None:
    pruned = prune(load_parent(folder, trust_remote_code=True), Architecture.from_words(words))
    save(pruned, tmp_path)
    assert is_pruned(tmp_path) == own
    again = load(tmp_path, trust_remote_code=True)
    assert torch.equal(outputs(again), outputs(pruned))
    with pytest.raises(UnsafeCheckpoint, match="--trust-remote-code"):
        load(tmp_path)
