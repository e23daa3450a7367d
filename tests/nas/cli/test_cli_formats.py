"""`nas export RESULT_DIR --format …`: wrong use is one line and exit code 2; a result folder gets report and link."""

import json
from pathlib import Path

import pytest
from command_line import nas
from families import build

from nas.formats import FORMATS
from pruning.checkpoint import save
from pruning.surgery.prune import prune
from search_spaces import Architecture


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["OUT", "--format", "onx"], "each is one of onnx, hf"),
        (["--format", "hf"], "give the result folder of a search"),
        (["nowhere", "--format", "hf"], "nowhere is no folder"),
        (["OUT", "--format", "hf", "--precision", "fp16"], "leave one out"),
        (["OUT", "--model", "python-lm"], "give one of them"),
        (["OUT", "--print-command"], "add --format gguf"),
        (["OUT", "--format", "hf", "--print-command"], "add gguf"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "OUT").mkdir()
    done = nas("export", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr.strip().splitlines()[-1]


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.formats.format.find_spec", lambda name: None)
    done = nas("export", str(tmp_path), "--format", "sentence-transformers")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith("pip install sentence-transformers")


@pytest.mark.slow
def test_a_winner_is_written_beside_its_search(tmp_path: Path) -> None:
    winner = tmp_path / "OUT" / "winner"
    save(prune(build("llama"), Architecture.from_words("mlp attn+mlp attn+mlp attn+mlp")), winner)
    (winner / "README.md").write_text("# a model\n")
    done = nas("export", str(winner.parent), "--format", "hf,sentence-transformers", "--json")
    assert done.returncode == 2  # one of them is refused
    assert "the parity report is not in MLflow" in done.stderr  # no search is recorded there
    document = json.loads(done.stdout)["formats"]
    assert {name: row["state"] for name, row in document.items()} == {
        "hf": "checked", "sentence-transformers": "refused",
    }  # fmt: skip
    assert set(document) <= set(FORMATS)
    assert (winner.parent / "formats" / "hf" / "config.json").is_file()
    assert "../parity.md" in (winner / "README.md").read_text()
