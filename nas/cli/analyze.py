"""`nas analyze`: how redundant every attention, MLP and block is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from nas.cli import options

_HELP = """Measure how redundant every attention, MLP and block of a model is (cosine similarity, one pass).

Examples:

  nas analyze

  nas analyze --model ./my-model --data texts.jsonl --out analysis
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("analyze", help=_HELP)(analyze)


def analyze(
    model: options.Model = None,
    data: options.Data = None,
    out: options.Out = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Print a table (or JSON), write redundancy.json and redundancy.png."""
    from nas.cli import console
    from nas.figures import save_redundancy
    from nas.subject import load_subject
    from pruning.redundancy import measure_redundancy

    progress = console.progress_for_stderr()
    subject = load_subject(model, data, trust_remote_code)
    batches = list(subject.dataset.calibration.batches(4))
    with progress.stage("analysing redundancy", total=len(batches)) as stage:

        def told() -> Iterator[dict[str, Any]]:
            for batch in batches:
                yield batch
                stage.advance()

        redundancy = measure_redundancy(subject.model, told(), subject.anatomy)
    folder = out or Path("nas-results") / f"{Path(subject.id).name}-analysis"
    save_redundancy(redundancy, folder, subject.id)
    if json:
        console.emit_json({"model": subject.id, **redundancy.to_json()})
        return
    from rich.table import Table

    title = f"{subject.id}: cosine similarity of the residual stream before and after each part"
    caption = f"{redundancy.layout}, {redundancy.tokens} tokens; higher is more redundant"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for name in ("block", "attention", "mlp", "whole block"):
        table.add_column(name, justify="right")
    for layer, scores in enumerate(zip(redundancy.attention, redundancy.mlp, redundancy.block, strict=True)):
        table.add_row(str(layer), *(f"{score:.4f}" for score in scores))
    console.emit_table(table)
    console.emit_text(f"picture  {folder / 'redundancy.png'}\nnumbers  {folder / 'redundancy.json'}")
