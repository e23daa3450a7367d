"""Every command that the tool or its documents print is one that the tool takes: its own parser reads it."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from latency_models.workload import Workload
from nas.cli.app import app
from nas.report.command import build_command
from nas.request.quantities import Budget, ByteLimit, ParameterLimit
from nas.request.search_request import SearchRequest
from nas.storage.result_folder import read_result, resume_command
from nas.tracking import log_page
from search_spaces.errors import UsageError
from search_spaces.kinds import Kind
from search_spaces.servable import Servable

ROOT = Path(__file__).parents[3]
ODD = ("plain", "with space", "a'quote", 'a"quote', "$HOME", "a;b", "100%20?x#y", "ünï", "*")  # names of folders
ANYTHING = SearchRequest(
    "jetson-orin", Budget.parse("20ms"), Path("out"), model="my model's", data=Path("some texts.jsonl"),
    workload=Workload.parse("decode:batch=1,past=64"), units=(Kind.MLP,), percentile=95, trials=7,
    time_limit_s=1234567.5, seed=3, storage="postgresql://me:secret@db/x", tracking_uri="http://me:secret@server",
    trust_remote_code=True, method="sleb", pareto=True, servable=Servable.VANILLA, prefix_cache_bytes=5 << 20,
    verify_cache=True, precision="w8", arithmetic="fp32", compensate="bias", heal_s=90.5, heal_train="lora",
    max_parameters=ParameterLimit.parse("4M"), max_bytes=ByteLimit.parse("3MB"),
    max_cache=ByteLimit.parse("0.5x"), tokens="keys", batch=2,
    executor="ray", workers=3, worker_resources={"CPU": 2.0, "big one": 1.0}, device="cuda:1", stream="always",
    part="decoder", goal="draft", id="0123456789ab",
)  # fmt: skip


def parsed(words: list[str]) -> dict[str, Any]:
    """What the command line makes of a command, without running it.

    Raises:
        TyperException: it does not take it.
    """
    program, *arguments = words
    assert program == "nas"
    here: Any = typer.main.get_command(app)
    context = here.make_context("nas", arguments)
    while hasattr(here, "resolve_command") and (left := [*context._protected_args, *context.args]):
        name, here, rest = here.resolve_command(context, left)
        context = here.make_context(name, rest, parent=context)
    return dict(context.params)


def asked(text: str, monkeypatch: pytest.MonkeyPatch) -> SearchRequest:
    """The request that `nas search` makes of a command."""
    found: list[SearchRequest] = []
    monkeypatch.setattr("nas.cli.search._run", lambda request, *_: found.append(request))
    done = CliRunner().invoke(app, shlex.split(text)[1:])
    assert done.exit_code == 0, done.output
    return found[0]


def test_the_command_that_repeats_a_search_holds_all_that_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in fields(SearchRequest):  # a field that comes later is to be given a value here
        usual = None if field.default is MISSING else field.default
        assert getattr(ANYTHING, field.name) != usual, field.name
    text = build_command(ANYTHING)
    assert "secret" not in text
    expected = replace(ANYTHING, storage=None, tracking_uri=None, id="", out=Path())
    assert replace(asked(text, monkeypatch), out=Path()) == expected


def test_a_search_that_asked_for_little_is_repeated_by_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    request = SearchRequest("host", Budget.parse("0.6x"), Path("out"), id="0123456789ab")
    assert build_command(request) == "nas search --target host --budget 0.6x"
    assert asked(build_command(request), monkeypatch).is_same_search(request)
    by_tokens = replace(request, units=(), tokens="search")
    assert asked(build_command(by_tokens), monkeypatch).is_same_search(by_tokens)


@pytest.mark.parametrize("name", ODD)
def test_a_search_is_resumed_by_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    request = replace(ANYTHING, out=tmp_path / name)
    request.save()
    assert parsed(shlex.split(request.resume_command))["resume"] == request.out
    assert asked(request.resume_command, monkeypatch) == request


@pytest.mark.parametrize("name", ODD)
def test_messages_name_folders_as_a_shell_takes_them(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    replace(ANYTHING, out=out).save()
    with pytest.raises(UsageError, match="not finished") as unfinished:
        read_result(out)
    (out / "result.json").write_text('{"schema_version": 1, "mlflow": {}}')
    with pytest.raises(UsageError, match="not logged") as unsent:
        log_page(out / "page.html", out)
    for refused, option in ((unfinished, "resume"), (unsent, "folders")):
        words = shlex.split("nas " + str(refused.value).rpartition(": nas ")[2])
        assert parsed(words)[option] in (out, [out], (out,))
    assert shlex.split(resume_command(out))[-1] == str(out)


def verbs() -> Iterator[Any]:
    """Every command of the program, and those below it."""
    waiting = [typer.main.get_command(app)]
    while waiting:
        here: Any = waiting.pop()
        yield here
        waiting += getattr(here, "commands", {}).values()


def test_the_examples_of_every_help_are_taken() -> None:
    found = [line.strip() for verb in verbs() for line in (verb.help or "").splitlines() if line.strip()[:4] == "nas "]
    assert len(found) > 40
    for line in found:
        parsed(shlex.split(line))


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_of_the_documents_are_taken(path: Path) -> None:
    text = re.sub(r"\\\n\s*", " ", path.read_text())
    for line in re.findall(r"^(?:    |\$ )(?:[A-Z_]+=\S+ |ray job submit .*-- )*(nas [a-z].*)$", text, re.MULTILINE):
        words = [word.strip("[]") for word in shlex.split(line, comments=True)]
        parsed([word for word in words if word.strip(".…")])


def test_what_the_command_line_does_not_know_is_no_command() -> None:
    for text in ("nas search --id x", "nas report", "nas profile kit --bogus", "nas certify a b", "nas serch"):
        with pytest.raises(typer.TyperException):
            parsed(shlex.split(text))
