"""`nas evaluate`: how far a model is from its parent."""

from pathlib import Path
from typing import Annotated

import typer

from nas.cli import options

_HELP = """Compare a pruned model with its parent, by the metric that fits its head.

Examples:

  nas evaluate nas-results/python-lm-host-0.6x/winner

  nas evaluate ./pruned --parent ./my-model --data texts.jsonl --split validation --json
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("evaluate", help=_HELP)(evaluate)


def evaluate(
    candidate: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A pruned model, or any model of the parent's kind.")
    ],
    parent: Annotated[
        str | None,
        typer.Option(
            "--parent", metavar="PATH_OR_HUB_ID", help="Default: that of the search which found it, else python-lm."
        ),
    ] = None,
    part: options.Part = None,
    data: options.Data = None,
    split: Annotated[str, typer.Option("--split", help="calibration, validation or test.")] = "test",
    device: options.Device = "auto",
    stream: options.Stream = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Print the quality of the candidate beside the parent's."""
    from nas.cli import console

    progress = console.begin("evaluate")
    from nas.data.documents import SPLITS
    from nas.parent.parent import load_parent_model
    from nas.parent.reference_models import find_reference
    from nas.quality.comparable import check_comparable
    from nas.quality.embedding import describe_other_embedding
    from nas.request.search_request import read_search_of
    from nas.tokens.space import build_candidate_evaluator
    from pruning.checkpoint import load_to_compute
    from pruning.inference.device import place
    from search_spaces.errors import UsageError

    if split not in SPLITS:
        raise UsageError(f"split {split!r} is none of {', '.join(SPLITS)}")
    reference = find_reference(candidate)
    source = reference.folder if reference else Path(candidate)
    model = load_to_compute(source, trust_remote_code)
    request = read_search_of(Path(candidate))
    if parent is None and request is not None:
        parent, data, part = request.model, data or request.data, part or request.part
    parent_model = load_parent_model(parent, data, trust_remote_code, device, stream, part)
    with progress.open_stage("evaluating"):
        evaluator = build_candidate_evaluator(parent_model, model, Path(candidate))
        model = place(model, parent_model.device)
        check_comparable(model, parent_model.placed, evaluator, split)
        progress.show_message(f"quality: {evaluator.words}")
        difference = describe_other_embedding(model, parent_model.placed)
        if difference:
            progress.show_message(f"{candidate} {difference}")
        qualities = {
            "candidate": evaluator.evaluate(model, split),
            "parent": evaluator.evaluate(parent_model.placed, split),
        }
    if json:
        console.emit_json({"schema_version": 1, **{name: q.to_json() for name, q in qualities.items()}})
        return
    for name, quality in qualities.items():
        more = ", ".join(f"{key} {value:.4f}" for key, value in quality.others.items())
        console.emit_text(f"{name:<10} {quality.metric} {quality.value:.4f}, {more} ({split}, {quality.items} items)")
