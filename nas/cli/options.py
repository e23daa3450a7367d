"""The options that several verbs share, so that a flag means the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PATH_OR_HUB_ID",
        help="A Hugging Face folder, a hub id, or a shipped reference model "
        "(python-lm, digits-vit, minilm). Default: python-lm. Only a hub id is ever fetched.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FILE|DIR",
        help="Text: a .txt file (documents separated by blank lines), a .jsonl file with a 'text' and optionally a "
        "'project' per line, or a folder of text files. Images: a folder with one folder per class. "
        "Default: the data that belongs to the reference model.",
    ),
]
Target = Annotated[
    str, typer.Option("--target", metavar="NAME", help="A device; `nas targets` lists them. `host` is this machine.")
]
WorkloadText = Annotated[
    str | None,
    typer.Option(
        "--workload",
        metavar="WORKLOAD",
        help="What the latency is a latency of: forward:batch=8,seq=128 or prefill:batch=1,seq=512. "
        "Default: one that suits the model and the target.",
    ),
]
Percentile = Annotated[
    int, typer.Option("--percentile", min=50, max=99, help="The percentile on which the budget is accepted.")
]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same search.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="The result folder. Default: nas-results/MODEL-TARGET-BUDGET."),
]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the Python code that a checkpoint carries. Off by default.")
]
