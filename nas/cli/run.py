"""`nas run`: try a model on one input, beside its parent."""

from pathlib import Path
from typing import Annotated

import typer

from nas.cli import options

_HELP = """Try a model: what it makes of one input, how fast, and what its parent makes of it.

Models run in PyTorch on this machine. Language models go on with a text, embedding models embed it, classifiers label a
text or an image, vision-language models answer a question about an image.

Examples:

  nas run nas-results/python-lm-jetson-orin-20ms "def area(radius):"

  nas run nas-results/minilm-host-0.6x "how do I read a file line by line?" --json

  nas run digits-vit digit.png

  nas run nas-results/digits-vlm-host-0.8x "how many digits?" --image digits.png
"""
_WINNER = "winner"  # of a result folder


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("run", help=_HELP)(run)


def run(
    model: Annotated[
        str,
        typer.Argument(metavar="FOLDER", help="A result folder (its winner), a model's folder, or a shipped model."),
    ],
    words: Annotated[
        str, typer.Argument(metavar="INPUT", help="A text or a question; of an image classifier, a file.")
    ],
    image: Annotated[Path | None, typer.Option("--image", metavar="FILE", help="What a question is about.")] = None,
    parent: Annotated[
        str | None,
        typer.Option("--parent", metavar="PATH_OR_HUB_ID", help="Default: that of the search which found the model."),
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="That are generated at most.")] = 64,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Print what both models make of the input."""
    from nas.cli import console

    progress = console.begin("run")
    from nas.parent.reference_models import DEFAULT, find_reference
    from nas.prediction import choose_task, predict
    from nas.request.search_request import read_search_of
    from pruning.checkpoint import load_parent, load_to_compute

    source = str(Path(model) / _WINNER) if (Path(model) / _WINNER).is_dir() else model
    request = read_search_of(Path(source))
    parent = parent or (None if request is None else request.model or DEFAULT)
    names = {"model": source} | ({} if parent is None else {"parent": parent})
    predictions = {}
    for role, name in names.items():
        reference = find_reference(name)
        location = reference.folder if reference else name
        with progress.open_stage(f"running {name}"):
            if role == "parent":  # which may be at a hub
                loaded = load_parent(location, trust_remote_code=trust_remote_code)
            else:
                loaded = load_to_compute(location, trust_remote_code)
            task = choose_task(loaded, location, image, max_tokens, trust_remote_code)
            predictions[role] = predict(loaded, task, task.read(words))
    values = [each.value for each in predictions.values()]
    compared = "" if parent is None else task.compare(*values)
    if json:
        document = {role: each.to_json() for role, each in predictions.items()}
        console.emit_json({"schema_version": 1, **document, **({"compared": compared} if compared else {})})
        return
    for role, each in predictions.items():
        console.emit_text(f"{role} ({names[role]}, {each.rate:,.1f} {each.unit}s/s):\n{each.text}")
    if compared:
        ratio = predictions["model"].rate / predictions["parent"].rate
        console.emit_text(f"{compared}; {ratio:.2f} times the parent's {predictions['model'].unit}s per second")
