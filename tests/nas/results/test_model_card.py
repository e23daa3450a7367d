"""The card of a winner: it names the files that are there, and what each takes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_report import certificate, result

from nas.results.model_card import build_card

DECODER = ("model-decode.onnx", "model-decode.tensorrt.onnx", "model-prefill.onnx", "certificate.json", "config.json")


@pytest.mark.parametrize(
    "files", [("model.onnx",), DECODER, ("model.onnx", "model.tensorrt.onnx", "device-model.onnx")]
)
def test_every_graph_that_is_there_is_named_and_no_other(files: tuple[str, ...], tmp_path: Path) -> None:
    made = replace(result(certificate(tmp_path, True), "a-model"), files={name: f"winner/{name}" for name in files})
    text = build_card(made, plain=False)
    named = set(re.findall(r"[\w.-]+\.onnx", text)) - {"int8.onnx"}
    assert named == {name for name in files if name.endswith(".onnx")}
    assert text.count("](") == 0


def test_a_decode_file_says_that_it_reads_prompts_unless_tokens_are_dropped(tmp_path: Path) -> None:
    made = replace(result(certificate(tmp_path, True), "a-model"), files={name: name for name in DECODER})
    assert "tokens [batch, sequence] after the keys and values" in build_card(made, plain=True)
    assert "it reads a prompt" in build_card(made, plain=True)
    dropping = build_card(replace(made, tokens="half from block 2"), plain=True)
    assert "one token after the keys and values" in dropping
    assert "it reads a prompt" not in dropping
