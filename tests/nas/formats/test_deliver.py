"""What is written of a format's outcome: agreement, every kind of fault, refusals, and the parent beside it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from families import build

from nas.formats import FORMATS, deliver_formats, parse_formats, write_parity
from nas.formats.deliver import MANIFEST
from nas.formats.format import Answers, FormatBase, NotRun, Probe, Refusal
from nas.formats.hf import HuggingFaceFormat
from nas.formats.parity import answer, build_probe
from nas.formats.source import Source, read_source
from nas.progress import Silent
from pruning.checkpoint import save
from pruning.surgery.prune import prune
from search_spaces import Architecture
from search_spaces.errors import ExportError, MissingExtra, UsageError

PARTS = "attn+mlp mlp attn+mlp attn"
END = 2  # the token that ends a text in the models of the tests


class Pytorch:
    """A program that is PyTorch itself, with a fault."""

    def __init__(self, model, fault: str) -> None:
        self.model, self.fault = model, fault

    @torch.no_grad()
    def run(self, inputs) -> np.ndarray:
        logits = self.model(**inputs, use_cache=False).logits[:, -1:].numpy()
        return logits + 0.1 if self.fault == "logits" else logits

    @torch.no_grad()
    def step(self, prompt) -> np.ndarray:
        logits = self.model(input_ids=prompt).logits[0, -1].numpy()
        return logits * 2 if self.fault == "step" else logits

    @torch.no_grad()
    def generate(self, prompt, count: int, stop) -> list[int]:
        tokens: list[int] = []
        while len(tokens) < count and (not tokens or tokens[-1] not in stop):
            ids = torch.cat([prompt, torch.tensor([tokens], dtype=torch.long)], 1)
            tokens.append(int(self.model(input_ids=ids, use_cache=False).logits[0, -1].argmax()))
        return [*tokens[:3], tokens[3] + 1, *tokens[4:]] if self.fault == "tokens" else tokens


@dataclass(frozen=True)
class Tried(FormatBase):
    name: str = "tried"
    fault: str = ""

    def find_refusal(self, source: Source) -> Refusal | None:
        nearest = Architecture.parent(4)
        return Refusal("a part is dropped", nearest) if self.fault == "refused" and source.architecture else None

    def export(self, source: Source, folder: Path, progress) -> None:
        (folder / "weights").write_bytes(b"0123456789")

    def build_probe(self, source: Source) -> Probe:
        return build_probe(source.model)

    def ask(self, source: Source, folder: Path, probe: Probe) -> Answers | NotRun:
        if self.fault == "not run":
            return NotRun("no such device")
        return answer("PyTorch", lambda: Pytorch(source.model, self.fault), probe)


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(prune(build("llama"), Architecture.from_words(PARTS)), Path(), plain=False)


def deliver(monkeypatch: pytest.MonkeyPatch, out: Path, fault: str, source: Source, parent: Source | None = None):
    monkeypatch.setitem(FORMATS, "tried", Tried(fault=fault))
    return deliver_formats(["tried"], source, parent, out, Silent())


def test_agreement_is_reported_with_the_parent_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Source
) -> None:
    parent = Source(build("llama"), Path(), plain=True)
    delivered = deliver(monkeypatch, tmp_path, "", source, parent)
    (row,) = delivered.rows
    assert row.parity is not None
    assert delivered.problem is None
    assert (row.state, row.parity.bytes, row.parity.unit) == (
        "checked",
        10 + len((tmp_path / "tried" / MANIFEST).read_bytes()),
        "token",
    )
    assert [name for name, _ in row.parity.differences] == ["outputs (1, 5)", "outputs (3, 12)", "cached step"]
    assert row.parity.same_tokens == row.parity.tokens > 0
    assert row.parent is not None
    assert row.parent.rate > 0
    card = tmp_path / "winner" / "README.md"
    card.parent.mkdir()
    card.write_text("# a model\n")
    for _ in range(2):  # the second time the card has its link
        report, table = write_parity(delivered.rows, tmp_path, card)
    assert json.loads(report.read_text())["formats"]["tried"]["state"] == "checked"
    assert "| tried | checked | PyTorch |" in table.read_text()
    assert card.read_text().count("../parity.md") == 1


@pytest.mark.parametrize(
    ("fault", "state", "words"),
    [
        ("logits", "failed", r"outputs \(1, 5\) differ by .* do not deploy it"),
        ("step", "failed", "cached step differ"),
        ("tokens", "failed", "after 3 of"),
        ("refused", "refused", r"a part is dropped; the nearest it accepts: attn\+mlp"),
    ],
)
def test_what_a_program_gets_wrong_is_not_delivered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Source, fault: str, state: str, words: str
) -> None:
    delivered = deliver(monkeypatch, tmp_path / "out", fault, source)
    (row,) = delivered.rows
    assert row.state == state
    assert not (tmp_path / "out" / "tried").exists()
    with pytest.raises(ExportError if state == "failed" else UsageError, match=words):
        raise delivered.problem  # type: ignore[misc]
    write_parity(delivered.rows, tmp_path)
    assert row.reason in (tmp_path / "parity.md").read_text()


def test_a_folder_that_no_program_ran_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Source) -> None:
    delivered = deliver(monkeypatch, tmp_path, "not run", source)
    write_parity(delivered.rows, tmp_path)
    assert delivered.problem is None
    assert delivered.rows[0].state == "not run"
    assert "- tried: no such device" in (tmp_path / "parity.md").read_text()


def test_a_folder_that_is_something_else_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Source
) -> None:
    (tmp_path / "tried").mkdir()
    (tmp_path / "tried" / "mine").write_text("precious")
    with pytest.raises(UsageError, match="was not written by nas export"):
        deliver(monkeypatch, tmp_path, "not run", source)
    assert (tmp_path / "tried" / "mine").read_text() == "precious"


def test_a_report_keeps_the_formats_of_earlier_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Source
) -> None:
    (tmp_path / "parity.json").write_text('{"formats": {"older": {"format": "older", "state": "refused", '
                                          '"parity": null, "parent": null, "reason": "why"}}}')  # fmt: skip
    write_parity(deliver(monkeypatch, tmp_path, "not run", source).rows, tmp_path)
    assert json.loads((tmp_path / "parity.json").read_text())["formats"].keys() == {"older", "tried"}
    assert "- older: why" in (tmp_path / "parity.md").read_text()


def test_names_are_checked_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_formats(" hf, onnx,hf ") == ("hf", "onnx")
    with pytest.raises(UsageError, match="each is one of onnx, hf"):
        parse_formats("hf,onx")
    with pytest.raises(UsageError, match="each is one of"):
        parse_formats(",")
    monkeypatch.setitem(FORMATS, "tried", Tried(needs={"no_such_package": "pip install 'nas[tried]'"}))
    with pytest.raises(MissingExtra, match=r"pip install 'nas\[tried\]'"):
        parse_formats("tried")


def test_a_plain_folder_is_copied_so_that_transformers_reads_it(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    pruned = prune(build("llama"), Architecture.from_words("attn+mlp removed attn+mlp attn+mlp"))
    save(pruned, tmp_path / "winner")
    (tmp_path / "winner" / "tokenizer.json").write_text("{}")
    source = read_source(tmp_path / "winner")
    (tmp_path / "hf").mkdir()
    HuggingFaceFormat().export(source, tmp_path / "hf", Silent())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    ids = torch.arange(8, 20)[None]
    assert torch.equal(again(input_ids=ids).logits, pruned(input_ids=ids).logits)
    assert {"tokenizer.json", "generation_config.json"} <= {file.name for file in (tmp_path / "hf").iterdir()}
