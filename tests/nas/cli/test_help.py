"""Every example that a help or a page shows is one that the command line takes, of a target that exists."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.cli.app import app
from nas.parent.reference_models import list_reference_names
from nas.request.choices import check_method, check_tokens
from nas.request.quantities import Budget
from nas.request.search_request import parse_units
from search_spaces.servable import parse_servable

HOME = Path(__file__).parents[3]
PAGES = (HOME / "README.md", *sorted((HOME / "docs").glob("*.md")))
CHECKS = {
    "target": find_target, "targets": find_target, "budget": Budget.parse, "budgets": Budget.parse,
    "workload": Workload.parse, "units": parse_units, "tokens": check_tokens, "method": check_method,
    "servable": parse_servable,
}  # fmt: skip
LISTS = ("targets", "budgets")


def commands(command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every verb with its words, groups among them."""
    yield path, command
    for name, verb in getattr(command, "commands", {}).items():
        yield from commands(verb, (*path, name))


VERBS = dict(commands(typer.main.get_command(app)))


def shown() -> list[str]:
    """The examples of all helps and pages; placeholders such as OUT are words like others."""
    found = []
    for verb in VERBS.values():
        found += re.findall(r"^ +((?:[A-Z_]+=\S+ )?nas .*)$", verb.help or "", re.MULTILINE)
    for page in PAGES:
        found += re.findall(r"^    (nas .*?)(?: {2,}#.*)?$", page.read_text().replace("\\\n", " "), re.MULTILINE)
    return sorted({line.rstrip() for line in found if "..." not in line.split()})


def given(line: str) -> tuple[str, dict[str, object]]:
    """The verb of an example and what its parser reads."""
    words = [word.removesuffix(";") for word in shlex.split(line)]
    words = words[words.index("nas") + 1 :]
    context = VERBS[()].make_context("nas", ["targets"])
    depth = 2 if tuple(words[:2]) in VERBS else 1
    verb = VERBS[tuple(words[:depth])]
    return words[0], verb.make_context(words[0], words[depth:], parent=context).params


def test_there_are_examples_of_every_verb() -> None:
    message = {shlex.split(line.partition("nas ")[2])[0] for line in shown()}
    assert message == {path[0] for path in VERBS if path}


@pytest.mark.parametrize("line", shown())
def test_an_example_is_taken_and_names_what_there_is(line: str) -> None:
    verb, values = given(line)
    for name, value in values.items():
        check = CHECKS.get(name)
        if check is None or value is None or (verb in ("serve", "token") and name == "tokens"):
            continue
        if verb == "analyze" and name == "tokens":
            check = check_tokens
        for each in str(value).split(",") if name in LISTS else [value]:
            check(each)
    if verb == "targets" and "name" in values:
        find_target(str(values["name"]))


def test_the_help_names_every_reference_model_and_every_kind_of_workload() -> None:
    options = {option.name: option.help for option in VERBS["search",].params}
    assert all(name in options["model"] for name in list_reference_names())
    for phase in ("forward:", "prefill:", "decode:"):
        (text,) = re.findall(rf"{phase}[a-z0-9=,]+[a-z0-9]", options["workload"])
        Workload.parse(text)


@pytest.mark.parametrize(
    ("verb", "folder"),
    [("search", "MODEL-TARGET-BUDGET in nas-results"), ("analyze", "MODEL-analysis in nas-results"),
     ("profile", "MODEL-profile in nas-results"),
     ("export", "MODEL-export in nas-results"), ("sweep", "nas-results/sweep")],
)  # fmt: skip
def test_the_help_of_out_says_where_this_verb_writes(verb: str, folder: str) -> None:
    (text,) = (option.help for option in VERBS[verb,].params if option.name == "out")
    assert f"{folder}." in text


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb])
def test_no_word_of_the_help_is_cut_in_a_terminal_of_80_columns(verb: tuple[str, ...]) -> None:
    done = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).invoke(app, [*verb, "--help"])
    assert done.exit_code == 0
    assert "…" not in done.output
