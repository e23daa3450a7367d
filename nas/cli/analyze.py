"""`nas analyze`: how redundant every attention, MLP and block is, and the tokens that flow through them."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import options

if TYPE_CHECKING:
    from nas.parent.parent import ParentModel
    from nas.progress import Progress
    from pruning.analysis.redundancy import Redundancy
    from pruning.analysis.token_redundancy import TokenRedundancy
    from pruning.anatomy.anatomy import Anatomy
    from search_spaces.schedule import Scorer

_HELP = """Measure how redundant every attention, MLP and block of a model is (cosine similarity), and its tokens
(how similar they are, how few of them receive attention). For image models a picture shows which patches are kept.

Examples:

  nas analyze

  nas analyze --model ./my-model --data texts.jsonl --out analysis

  nas analyze --model digits-vit --tokens pyramiddrop:2=0.5,4=0.25

  nas analyze --model ./my-t5 --part encoder --data pairs.jsonl
"""
_HEADINGS = {"block": "whole block"}  # the first column is the number of the block
_USUAL = "pyramiddrop"
_FATES = {
    "drop": "shaded ones are dropped",
    "merge": "shaded ones are merged into others",
    "recycle": "shaded ones are merged into others",
}
_ITEMS = 64  # whose tokens are looked at; every one has many
Tokens = Annotated[
    str | None,
    typer.Option(
        "--tokens",
        metavar="PRESET",
        help="The token schedule that the picture shows: pyramiddrop, fastv, tome, visionzip, keys, norm or random, "
        "with settings after a colon (pyramiddrop:2=0.5,4=0.25). Default: pyramiddrop.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("analyze", help=_HELP)(analyze)


def analyze(
    model: options.Model = None,
    part: options.Part = None,
    data: options.Data = None,
    tokens: Tokens = None,
    device: options.Device = "auto",
    stream: options.Stream = "auto",
    out: options.AnalysisOut = None,
    dry_run: options.DryRun = False,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Print tables (or JSON), write redundancy.json/.png, tokens.json/.png and, for images, survivors.png."""
    from nas.cli import console

    progress = console.begin("analyze")
    from nas.figures.kept_patches import spread
    from nas.figures.search import save_redundancy
    from nas.parent.analysis import analyse
    from nas.parent.analysis_batches import estimate_state_bytes
    from nas.parent.parent import load_parent_model
    from nas.parent.running_cost import check_memory
    from nas.storage.disk_errors import check_folder

    if out is not None:
        check_folder(out, "--out")
    if dry_run and model is not None and _lacks_weights(model):
        from nas.cli.families import families

        families(Path(model), json=json)
        return
    parent = load_parent_model(model, data, trust_remote_code, device, stream, part)
    if tokens is not None:
        _refuse(parent, tokens)
    check_memory(parent, estimate_state_bytes(parent))
    if dry_run:
        _show_plan(parent, json)
        return
    redundancy, redundant = analyse(parent, progress, spread(parent.dataset.calibration, _ITEMS))
    folder = out or Path("nas-results") / f"{Path(parent.id).name}-analysis"
    save_redundancy(redundancy, folder, parent.id)
    written = ["redundancy", *_save_tokens(parent, progress, redundant, tokens, folder)]
    if json:
        document = None if redundant is None else redundant.to_json()
        parts = [
            {str(kind): list(part.natures) for kind, part in block.parts.items()} for block in parent.anatomy.blocks
        ]
        console.emit_json({"model": parent.id, **redundancy.to_json(), "parts": parts, "token_redundancy": document})
        return
    console.emit_table(_build_parts_table(parent.id, redundancy, parent.anatomy))
    if redundant is not None:
        console.emit_table(_build_tokens_table(redundant))
    console.emit_text("\n".join(f"picture  {folder / name}.png" for name in written))
    console.emit_text("\n".join(f"numbers  {folder / name}.json" for name in written if name != "survivors"))


def _lacks_weights(model: str) -> bool:
    """Whether a model is a folder with a config and no weights: of its structure something can be said all the same."""
    folder = Path(model)
    return (folder / "config.json").is_file() and not any(folder.glob("*.safetensors"))


def _show_plan(parent: "ParentModel", json: bool) -> None:
    """What the analysis would take."""
    from nas.cli import console
    from nas.figures.kept_patches import spread
    from nas.parent.analysis_batches import estimate_state_bytes
    from nas.parent.running_cost import count_bytes, estimate_peak_bytes, measure_item_seconds
    from pruning.inference.residency import is_streamed

    split = parent.dataset.calibration
    items = len(split) + len(spread(split, _ITEMS))
    facts = {
        "model": parent.id, "parameters": parent.model.num_parameters(), "device": str(parent.device),
        "streamed": is_streamed(parent.model), "items": items,
        "seconds": round(measure_item_seconds(parent, split) * items),
        "weights_mib": count_bytes(parent.model) >> 20,
        "peak_mib": estimate_peak_bytes(parent, estimate_state_bytes(parent)) >> 20,
    }  # fmt: skip
    if json:
        console.emit_json({"schema_version": 1, **facts})
    else:
        console.emit_text("\n".join(f"{name.replace('_', ' '):<12} {value}" for name, value in facts.items()))


def _save_tokens(
    parent: "ParentModel", progress: "Progress", tokens: "TokenRedundancy | None", preset: str | None, folder: Path
) -> Iterable[str]:
    """The names of what is written about tokens."""
    from nas.figures.kept_patches import find_image_survivors, takes_whole_images
    from nas.figures.tokens import draw_survivors, save_tokens
    from search_spaces.errors import UsageError

    if tokens is None:
        return ()
    save_tokens(tokens, folder, parent.id)
    split = parent.dataset.calibration
    if not takes_whole_images(split):
        if preset is not None:
            progress.show_message(f"no picture of {preset}: {parent.id} is not given whole images")
        return ("tokens",)
    try:
        schedule = _parse_schedule(parent, preset or _USUAL, tokens.scorer)
    except UsageError:  # a few blocks only; a person's own preset was read before
        return ("tokens",)
    survivors = find_image_survivors(parent.placed, parent.anatomy, split, schedule, parent.tokenizer)
    if survivors is None:
        progress.show_message(
            f"no picture of {preset or _USUAL}: no tokens are dropped, or they form no grid on the images"
        )
        return ("tokens",)
    fate = _FATES[schedule.reduction.reducer]
    title = f"{Path(parent.id).name}, {preset or _USUAL}: which image tokens are kept; {fate}"
    draw_survivors(survivors.pixels, survivors.remains, folder / "survivors.png", title, survivors.captions)
    return ("tokens", "survivors")


def _refuse(parent: "ParentModel", preset: str) -> None:
    """Before anything is measured.

    Raises:
        NasError: no such preset, or one that this model cannot follow.
    """
    from pruning.surgery.prune import prune
    from search_spaces.architecture import Architecture

    architecture = Architecture.parent(parent.anatomy.depth).replace_tokens(_parse_schedule(parent, preset, None))
    prune(parent.model, architecture, anatomy=parent.anatomy, share_weights=True)


def _parse_schedule(parent: "ParentModel", preset: str, scorer: "Scorer | None") -> Any:
    """A preset for this model; an encoder without a class token asks whom the analysis asked.

    Raises:
        UsageError: from `parse_preset`.
    """
    from search_spaces.presets import parse_preset

    causal = parent.anatomy.is_decoder
    return parse_preset(preset, parent.anatomy.depth, causal=causal, scorer=None if causal else scorer)


def _build_parts_table(title: str, redundancy: "Redundancy", anatomy: "Anatomy") -> Any:
    from rich.table import Table

    from search_spaces.kinds import PARTS

    named = not set(anatomy.count_natures()) <= set(PARTS)
    title = f"{title}: cosine similarity of the residual stream before and after each part"
    caption = f"{redundancy.layout}, {redundancy.tokens} tokens; higher is more redundant"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for name in ("block", *(_HEADINGS.get(kind, kind) for kind in redundancy.kinds)):
        table.add_column(name, justify="right")
    if named:
        table.add_column("parts")
    for layer, scores in enumerate(zip(*map(redundancy.get_scores, redundancy.kinds), strict=True)):
        natures = ["+".join(part.natures) for part in anatomy.blocks[layer].parts.values()] if named else []
        table.add_row(str(layer), *(f"{score:.4f}" for score in scores), *([", ".join(natures)] if named else []))
    return table


def _build_tokens_table(tokens: "TokenRedundancy") -> Any:
    from rich.table import Table

    group = tokens.groups[0]
    title = f"{group.name} that enter each block: {group.tokens:.0f} of an item on average"
    caption = (
        f"attention is that of the {tokens.query}; where 90 % of it needs nearly all tokens, it says little about "
        "which can be dropped"
    )
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for name in ("block", "similarity to next", "to nearest", "attention received", "tokens holding 90 %"):
        table.add_column(name, justify="right")
    rows = zip(group.neighbour, group.nearest, group.mass, group.holding, strict=True)
    for layer, (neighbour, nearest, mass, holding) in enumerate(rows):
        table.add_row(str(layer), f"{neighbour:.3f}", f"{nearest:.3f}", f"{mass:.1%}", f"{holding:.1f}")
    return table
