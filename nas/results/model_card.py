"""The README.md of the winner's folder: what it is, what it costs, how to use it, what is not promised."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from latency_models.workload import Phase
from nas.export.onnx_export import build_file_name
from nas.results.finalists import describe_order, list_rung_steps, tabulate_finalists
from nas.results.glossary import add_item_count, join_names
from nas.results.result import Entry, Result
from search_spaces.architecture import Architecture
from search_spaces.kinds import PARTS
from search_spaces.level import DROP

_SIGNS = dict(zip(PARTS, "AM", strict=True))


def write_card(result: Result, folder: Path, plain: bool, embedding: str = "") -> None:
    """Write the card.

    Args:
        result: of the search.
        folder: the winner's.
        plain: whether the folder loads with the plain Hugging Face classes.
        embedding: how texts are embedded, where the folder has the files of Sentence Transformers.
    """
    (folder / "README.md").write_text(build_card(result, plain, embedding))


def build_card(result: Result, plain: bool, embedding: str = "") -> str:
    """The text of the card."""
    winner, parent, p = result.winner, result.parent, result.percentile
    names = join_names([(entry.method, entry.architecture) for entry in result.baselines])
    shown = [entry for entry in result.baselines if entry.method in names]
    every = winner.quality.items
    baselines = [_format_row(add_item_count(names[entry.method], entry.quality.items, every), entry) for entry in shown]
    before = [
        _format_row(name, replace(winner, quality=quality))
        for name, quality in (("compensated, before training", result.compensated), ("as dropped", result.as_dropped))
        if quality is not None
    ]
    rows = [_format_row("parent", parent), _format_row("**this model**", winner), *before, *baselines]
    loader = 'nas.load("winner")  # parts of blocks are dropped; the plain classes refuse the folder'
    if plain:
        loader = 'nas.load("winner")  # or AutoModel.from_pretrained: only whole blocks are removed'
    files = sorted(name for name in result.files if name.endswith(".onnx"))
    tokens = f"\nTokens: {result.tokens}.\n" if result.tokens else ""
    tokens += _describe_adjustment(result.compensation) if result.compensation else ""
    tokens += _describe_healing(result.healing) if result.healing else ""
    tokens += _describe_finalists(result) if len(result.finalists) > 1 else ""
    own = _describe_embedding_use(plain, embedding) if embedding else ""
    metric = f"{winner.quality.metric} ({'higher' if winner.quality.higher_is_better else 'lower'} is better)"
    return f"""---
base_model: {result.model["id"]}
library_name: transformers
tags: [pruned, nas]
---

# {result.model["id"]}, pruned for {result.target["name"]} within {result.budget_ms:.2f} ms

{result.winner_parameters / 1e6:.2f} M of the parent's {result.model["parameters"] / 1e6:.2f} M parameters.
Workload: `{result.workload}`. Latencies are p{p}, {result.target["label"]}.
Verdict: **{result.verdict}**.

| | {metric}, test split | more | ms |
|---|---|---|---|
{chr(10).join(rows)}

## What is kept (A attention, M MLP, · dropped, blank: the block is removed)

```
{_format_blocks(winner)}
```
{tokens}
## Use

```python
import nas
model = {loader}

import onnxruntime
session = onnxruntime.InferenceSession("winner/{_pick_file(files)}")
```

{own}{chr(10).join(f"- `{name}`: {_describe_file(name, bool(result.tokens))}" for name in files)}
- `certificate.json`: every latency sample and the versions.

To quantise: `onnxruntime.quantization.quantize_dynamic("winner/{_pick_file(files)}",
    "int8.onnx")` takes the file as it is.

## Limits

The model was compared with its parent on data of the kind that the search used. Quality on other data, on long contexts
and in fine-grained abilities may be lower. A latency predicted from a data sheet may be wrong by a factor of two.
"""


def _describe_adjustment(compensation: dict[str, Any]) -> str:
    """How what is left stands in for what was dropped."""
    return (
        f"\nOutput projections were adjusted ({compensation['method']}) on {compensation['tokens']:,} calibration "
        "tokens or images, so that they stand in for what was dropped; `compensation.json` says how.\n"
    )


def _describe_healing(healing: dict[str, Any]) -> str:
    """How long it was trained, on what."""
    return (
        f"\nThen it was trained ({healing['train']}) for {healing['steps']} steps on {healing['tokens_seen']:,} "
        "calibration tokens or images, repeated ones included, to give what its parent gives (`healing.json`).\n"
    )


def _describe_finalists(result: Result) -> str:
    """The best candidates at every stage, as a table, and what changed their order."""
    finalists, steps = [each.to_json() for each in result.finalists], list_rung_steps(result.healing)
    head, *rows = tabulate_finalists(finalists, steps)
    number = next((each.number for each in result.finalists if each.architecture == result.winner.architecture), None)
    listed = [head, ["---:"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(row)} |" for row in listed)
    order = "".join(f"- {said}\n" for said in describe_order(finalists, steps))
    which = "" if number is None else f" This model is finalist {number}."
    return f"""
## Finalists

Losses on the validation split, with ranks.{which}

{table}

{order}"""


def _pick_file(files: list[str]) -> str:
    """The file that a person tries first: for ONNX Runtime, of the phase that stands alone."""
    usual = [build_file_name(phase) for phase in (Phase.FORWARD, Phase.DECODE, Phase.PREFILL)]
    return next((name for name in [*usual, *files] if name in files), usual[0])


def _describe_file(name: str, drops_tokens: bool) -> str:
    """What a file is, in a line."""
    phases = {"prefill": Phase.PREFILL, "decode": Phase.DECODE}
    phase = next((phase for word, phase in phases.items() if f"-{word}." in name), Phase.FORWARD)
    after = "one token" if drops_tokens else "tokens [batch, sequence]"
    prompt = "" if drops_tokens else "; from past.* of no tokens it reads a prompt"
    descriptions = {
        Phase.FORWARD: "all outputs of all tokens, without a cache",
        Phase.PREFILL: "a prompt: logits of its last token, and keys and values as present.*",
        Phase.DECODE: f"{after} after the keys and values in past.*: logits of the last, and present.*{prompt}",
    }[phase]
    if name.endswith(".tensorrt.onnx"):
        return f"{descriptions}; in the form TensorRT parses, the engine is built on the device"
    return f"{descriptions}; as it was measured on the device" if name.startswith("device-") else descriptions


def _describe_embedding_use(plain: bool, embedding: str) -> str:
    loader = 'SentenceTransformer("winner")'
    if not plain:
        loader = 'SentenceTransformer("PARENT")  # its folder, for all but the weights\n'
        loader += 'model[0].model = nas.load("winner")'
    return f"""Texts are embedded as its parent does it: {embedding}.
The output `sentence_embedding` of `model.onnx` is that vector. With Sentence Transformers:

```python
from sentence_transformers import SentenceTransformer
model = {loader}
```

"""


def _format_row(name: str, entry: Entry) -> str:
    more = ", ".join(f"{key} {value:.3f}" for key, value in entry.quality.others.items())
    ms = f"{entry.predicted_ms:.2f} predicted"
    if entry.measured_ms is not None:
        ms = f"{entry.measured_ms:.2f} measured"
    return f"| {name} | {entry.quality.value:.4f} | {more} | {ms} |"


def _format_blocks(entry: Entry) -> str:
    architecture = entry.architecture
    begins = {stage.block: f"  {stage.ratio:g} of the tokens from here on" for stage in architecture.tokens.stages}
    return "\n".join(
        f"block {layer:>2}  {_format_signs(architecture, layer)}{begins.get(layer, '')}"
        for layer in range(architecture.depth)
    )


def _format_signs(architecture: Architecture, layer: int) -> str:
    """A letter for every part that is kept, and the levels of those that are not as the parent's."""
    if layer in architecture.list_removed_blocks():
        return " " * (2 * len(PARTS) - 1)
    kept = " ".join(_SIGNS[kind] if architecture.runs(layer, kind) else "·" for kind in PARTS)
    chosen = [each for each in architecture.list_block_choices(layer) if each.kind not in PARTS or each.level != DROP]
    return "  ".join([kept, *(f"without {each.kind}" if each.level == DROP else str(each) for each in chosen)])
