"""The line for llama-quantize: read as that program reads it, it gives every tensor the type that the file has."""

import json
import re
import shlex
from pathlib import Path

import pytest
from deployed_format import write_source
from families import build

from nas.formats.gguf import GgufFormat
from nas.formats.llama_quantize import build_quantize_command
from nas.formats.source import Source
from nas.progress import Silent
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice
from search_spaces.errors import UsageError

LEVELS = ("block.1", "mlp.0:bits=w4", "attention.2:bits=w8", "head:bits=w4")


def make_architecture(*choices: str) -> Architecture:
    return Architecture(4).drop(*map(Choice.parse, choices))


def read_line(line: str) -> dict[str, list[str]]:
    """Values by option; of the words behind them, under the empty name."""
    words, given = shlex.split(line)[1:], dict[str, list[str]]()
    while words[0].startswith("--"):
        given.setdefault(words[0], []).append(words[1])
        words = words[2:]
    return given | {"": words}


def test_every_tensor_gets_the_type_of_the_file(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="files for llama.cpp need nas[gguf]")
    source = write_source(tmp_path / "model", architecture=make_architecture(*LEVELS))
    given = read_line(build_quantize_command(source))
    assert given["--prune-layers"] == ["1"]
    assert given[""] == ["parent.gguf", "model.gguf", "Q8_0"]
    patterns = [text.rsplit("=", 1) for text in given["--tensor-type"]]
    patterns += [
        ["^token_embd", given["--token-embedding-type"][0]],
        ["^output.weight", given["--output-tensor-type"][0]],
    ]
    (tmp_path / "gguf").mkdir()
    GgufFormat().export(source, tmp_path / "gguf", Silent())
    for tensor in gguf.GGUFReader(tmp_path / "gguf" / "model.gguf").tensors:
        fitting = [kind for pattern, kind in patterns if re.search(pattern, tensor.name)]
        if tensor.name.endswith("norm.weight"):  # that program leaves norms as they are
            assert fitting == []
        else:
            assert fitting == [tensor.tensor_type.name.lower()]


def test_blocks_alone_need_no_types(tmp_path: Path) -> None:
    """A folder that plain Transformers read says in a file of the search what was removed."""
    pruned = make_architecture("block.0", "block.3")
    (tmp_path / "architecture.json").write_text(json.dumps(pruned.to_json()))
    source = Source(prune(build("llama"), pruned), tmp_path, plain=True)
    assert build_quantize_command(source) == "llama-quantize --prune-layers 0,3 parent.gguf model.gguf F32"


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (("attention.2",), "no line makes attention.2"),
        (("mlp.1:width=0.5",), "no line makes mlp.1:width=0.5"),
        (("mlp.1:bits=int8",), "not known there"),
    ],
)
def test_what_it_has_no_option_for_is_refused(choices: tuple[str, ...], words: str) -> None:
    source = Source(prune(build("llama"), make_architecture(*choices)), Path("nowhere"), plain=False)
    with pytest.raises(UsageError, match=words):
        build_quantize_command(source)


def test_a_folder_without_an_architecture_is_refused() -> None:
    with pytest.raises(UsageError, match="says which blocks were removed"):
        build_quantize_command(Source(build("llama"), Path("nowhere"), plain=True))
