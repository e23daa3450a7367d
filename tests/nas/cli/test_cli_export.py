"""`nas export`: the files that are deployed, with what turns words into their tokens beside them."""

import json
from pathlib import Path

import numpy as np
import pytest
import transformers as hf
from byte_tokenizer import SIZE, byte_tokenizer
from families import filled
from typer.testing import CliRunner

from latency_models.runtime_ort import open_session
from nas.cli.app import app
from pruning.checkpoint import save
from pruning.surgery.prune import prune
from search_spaces import Architecture


@pytest.mark.parametrize("words", ["attn+mlp removed", pytest.param("mlp attn", marks=pytest.mark.slow)])
def test_a_winner_is_exported_with_its_tokenizer_and_its_generation_config(words: str, tmp_path: Path) -> None:
    """Whole blocks removed, an ordinary folder; and parts of blocks, a folder of our own."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = filled(lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, vocab_size=SIZE, pad_token_id=0)))
    model.generation_config.max_length = 7
    winner = tmp_path / "OUT" / "winner"
    save(prune(model, Architecture.from_words(words)), winner)
    byte_tokenizer(winner)
    out = tmp_path / "deploy"
    done = CliRunner().invoke(app, ["export", "--model", str(winner), "--out", str(out), "--phase", "decode", "--json"])
    assert done.exit_code == 0, done.stdout
    document = json.loads(done.stdout)
    assert {Path(file).name for file in document["files"].values()} == {
        "model-decode.onnx", "model-decode.tensorrt.onnx",
    }  # fmt: skip
    assert all(Path(file).is_file() for file in document["files"].values())
    assert json.loads((out / "generation_config.json").read_text())["max_length"] == 7
    ids = hf.AutoTokenizer.from_pretrained(out)("a prompt", return_tensors="np")["input_ids"]
    session = open_session(out / "model-decode.onnx", 1)
    feed = {name: np.zeros((1, 4, 0, 8), np.float32) for name in (node.name for node in session.get_inputs())}
    feed |= {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.size)[None]}
    assert session.run(["logits"], feed)[0].shape == (1, 1, SIZE)
