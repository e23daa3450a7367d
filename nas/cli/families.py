"""`nas families`: what of a model's family can be pruned, without its weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import options

if TYPE_CHECKING:
    from nas.families.outcome import Outcome

_HELP = """Say what of a model can be pruned, decoded, saved and exported, from its config alone.

A tiny random model of the same form is tried; weights are neither needed nor read.

Examples:

  nas families ./my-model

  nas families ./my-model/config.json --onnx
"""
Source = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with a config.json, or that file.")]
Onnx = Annotated[bool, typer.Option("--onnx", help="Export the tiny model to ONNX, too.")]


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("families", help=_HELP)(families)


def families(source: Source, onnx: Onnx = False, json: options.Json = False) -> None:
    """Print a line for each thing that was tried (or JSON).

    Raises:
        ModelError: the config names no class, or no tiny model of it can be built.
        UnreadableModel: the family is not read.
    """
    from dataclasses import asdict

    from nas.cli import console

    outcome = try_folder(source, onnx)
    if json:
        console.emit_json({"schema_version": 1, **asdict(outcome)})
    else:
        console.emit_text(describe(outcome))


def try_folder(source: Path, onnx: bool = False) -> "Outcome":
    """What is found of the config in a folder.

    Raises:
        ModelError: the config names no class, or no tiny model of it can be built.
        UnreadableModel: the family is not read.
    """
    from nas.families.trials import try_config
    from pruning.checkpoint.config import check_safe, read_config, read_document
    from search_spaces.errors import ModelError, UnreadableModel

    folder = source.parent if source.is_file() else source
    document = read_document(folder)
    check_safe(source, document, False)
    config = read_config(source, folder, document, False)
    names = getattr(config, "architectures", None) or []
    if not names:
        raise ModelError(
            f"{source} names no architectures in its config.json, so which head it has is not known; add it"
        )
    outcome = try_config(config, names[0], onnx)
    if outcome.not_built:
        raise ModelError(f"{source}: no tiny model of its form can be built ({outcome.not_built}); give its weights")
    if outcome.refused or not outcome.layout:
        raise UnreadableModel(outcome.refused or outcome.words)
    return outcome


def describe(outcome: "Outcome") -> str:
    """A line for each thing that was tried."""
    from nas.families.outcome import NOTHING, TRIALS

    found = ", ".join(f"{count} {kind}" for kind, count in outcome.units.items())
    facts = {"family": outcome.family, "class": outcome.model, "layout": outcome.layout, "units of four blocks": found}
    facts["parts"] = ", ".join(f"{count} {nature}" for nature, count in outcome.parts.items())
    facts |= {name: getattr(outcome, name) for name in TRIALS if getattr(outcome, name) != NOTHING}
    return "\n".join(f"{name:<21} {value}" for name, value in facts.items())
