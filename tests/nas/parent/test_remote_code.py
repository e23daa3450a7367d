"""Code in a tokenizer's or processor's folder runs with the flag only, whatever stands on stdin."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from byte_tokenizer import byte_tokenizer
from families import build
from test_questions import processor

from nas.data.prompts import load_processor
from nas.parent.parent import load_parent_model
from pruning.checkpoint import remote_code
from pruning.checkpoint.tokenizer import load_tokenizer
from search_spaces.errors import BadData, ModelError, UnsafeCheckpoint

CODE = """
from pathlib import Path
import transformers
Path(__file__).resolve()
Path({marker!r}).write_text("ran")
class Own(transformers.{base}):
    pass
"""


def carry_code(folder: Path, config: str, kind: str, base: str) -> Path:
    """Let a config of the folder name a class of `own.py`, which writes a marker where it runs."""
    marker = folder / "marker"
    (folder / "own.py").write_text(CODE.format(marker=str(marker), base=base))
    path = folder / config
    document = json.loads(path.read_text()) if path.exists() else {}
    reference = [None, "own.Own"] if kind == "AutoTokenizer" else "own.Own"
    path.write_text(json.dumps({**document, "auto_map": {kind: reference}}))
    return marker


@pytest.fixture(params=["pipe", "terminal"])
def willing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Somebody who says yes to everything; gives the descriptor from which nothing may have been read."""
    reading, writing = os.pipe() if request.param == "pipe" else os.openpty()[::-1]
    os.write(writing, b"y\ny\n")
    with os.fdopen(os.dup(reading)) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield reading
    os.close(reading), os.close(writing)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    build("llama").save_pretrained(tmp_path)
    byte_tokenizer(tmp_path)
    return tmp_path


def test_a_tokenizers_code_is_refused_and_nobody_is_asked(llama: Path, willing: int) -> None:
    marker = carry_code(llama, "tokenizer_config.json", "AutoTokenizer", "PreTrainedTokenizerFast")
    with pytest.raises(UnsafeCheckpoint, match="--trust-remote-code") as caught:
        load_parent_model(str(llama)).tokenizer  # noqa: B018 (it is read when it is first asked for)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert os.read(willing, 2) == b"y\n"


def test_with_the_flag_it_runs(llama: Path) -> None:
    expected = load_tokenizer(llama)("some words")["input_ids"]
    marker = carry_code(llama, "tokenizer_config.json", "AutoTokenizer", "PreTrainedTokenizerFast")
    parent = load_parent_model(str(llama), trust_remote_code=True)
    assert parent.tokenizer("some words")["input_ids"] == expected
    assert type(parent.tokenizer).__name__ == "Own"
    assert marker.exists()


@pytest.mark.parametrize(
    ("config", "kind", "base"),
    [
        ("processor_config.json", "AutoProcessor", "LlavaProcessor"),
        ("tokenizer_config.json", "AutoTokenizer", "PreTrainedTokenizerFast"),
        ("preprocessor_config.json", "AutoImageProcessor", "CLIPImageProcessorPil"),
    ],
)
def test_a_processors_code_is_refused(
    config: str, kind: str, base: str, tmp_path: Path, willing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("llava")
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    model.name_or_path = str(tmp_path)
    marker = carry_code(tmp_path, config, kind, base)
    with pytest.raises(UnsafeCheckpoint, match="--trust-remote-code") as caught:
        load_processor(model)
    assert "\n" not in str(caught.value)
    # Where the library decides, through a table that forgets the flag: it may take a class of its own.
    monkeypatch.setattr("nas.data.prompts.refuse_carried_code", lambda source: None)
    (tmp_path / "processor_config.json").write_text("{}")
    carry_code(tmp_path, config, kind, base)
    with contextlib.suppress(BadData):
        load_processor(model)
    assert not marker.exists()
    assert os.read(willing, 2) == b"y\n"


def test_where_the_library_would_ask_it_refuses(llama: Path, willing: int) -> None:
    from transformers import AutoTokenizer

    (llama / "config.json").write_text('{"model_type": "unheard_of"}')
    marker = carry_code(llama, "tokenizer_config.json", "AutoTokenizer", "PreTrainedTokenizerFast")
    (llama / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": [null, "own.Own"]}}')
    remote_code.prevent_asking()
    with pytest.raises(ValueError, match="custom code"):
        AutoTokenizer.from_pretrained(llama)  # no flag: it asks
    assert not marker.exists()
    assert os.read(willing, 2) == b"y\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", '{"version": "1.0", "mod'),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "Unheard"}}'),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "\x00"),
    ],
)
def test_a_damaged_tokenizer_is_one_line(name: str, content: str, llama: Path) -> None:
    (llama / name).write_text(content)
    with pytest.raises(ModelError, match="tokenizer cannot be read") as caught:
        load_tokenizer(llama)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["bert", "gpt2", "qwen2", "gpt_neox"])
def test_a_tokenizer_without_a_vocabulary_is_none_that_can_be_used(family: str, tmp_path: Path) -> None:
    build(family).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path) is None  # no file at all
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(tmp_path)
