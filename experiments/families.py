"""What of every family that the installed Transformers offers can be read, pruned, decoded, saved and exported.

    python experiments/families.py run --out families.json [--only mixtral,jamba] [--onnx]
    python experiments/families.py table families.json --out docs/families.md

Every model is tiny and random. Each of its units is dropped once, and the outcome compared with the intact model whose
part is overruled by a forward hook; pruned models decode step by step, and are saved and read again. `--onnx` exports
each family as well, which takes minutes.
"""

import argparse
import gc
import json
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_configs import build_tiny_config
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

from nas.parent.shape import read_shape
from pruning.analysis.redundancy import measure_redundancy
from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.anatomy.probe import make_probe_inputs
from pruning.checkpoint import load, save
from pruning.surgery.prune import prune
from search_spaces.architecture import drop_from_parent
from search_spaces.errors import NasError
from search_spaces.kinds import Kind
from search_spaces.level import DROP
from search_spaces.unit import Unit

TASKS = {
    "causal language model": "CAUSAL_LM",
    "masked language model": "MASKED_LM",
    "image classification": "IMAGE_CLASSIFICATION",
    "vision-language model": "IMAGE_TEXT_TO_TEXT",
}
TOKENS, PROMPT = 11, 6
CACHES = ("past_key_values", "cache_params", "state")
CLOSE = 1e-3  # of the largest output
LARGEST = 100_000_000  # parameters; a family whose sizes are not found is not built
EXACT, NOTHING = "exact", ""


@dataclass
class Outcome:
    """What became of one class. Empty words: not tried, as what comes before it did not work."""

    task: str
    family: str
    model: str
    not_built: str = ""
    refused: str = ""
    crashed: str = ""
    layout: str = ""
    units: dict[str, int] = field(default_factory=dict)
    dropped: str = ""
    decoded: str = ""
    saved: str = ""
    shape: str = ""
    analysed: str = ""
    onnx: str = ""


def run(options: argparse.Namespace) -> None:
    """Try every class; the file is written after each, so that a run that was stopped can be looked at."""
    only = set(options.only.split(",")) if options.only else None
    outcomes: list[Outcome] = []
    for task, family, name in list_classes():
        if only is None or family in only:
            outcome = try_class(task, family, name, options.onnx)
            outcomes.append(outcome)
            print(f"{family:<28} {name:<44} {describe(outcome)}", flush=True)
            document = {"transformers": transformers.__version__, "outcomes": [asdict(each) for each in outcomes]}
            options.out.write_text(json.dumps(document, indent=1) + "\n")
            gc.collect()
    print(count(outcomes))


def list_classes() -> Iterator[tuple[str, str, str]]:
    """(task, family, class) of everything that the auto classes of these tasks know, each class once."""
    seen: set[str] = set()
    for task, name in TASKS.items():
        for family, known in getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES").items():
            model = known[0] if isinstance(known, tuple) else known
            if model not in seen:
                seen.add(model)
                yield task, family, model


def try_class(task: str, family: str, name: str, onnx: bool) -> Outcome:
    """Build a tiny model and try on it whatever a search would do."""
    outcome = Outcome(task, family, name)
    try:
        model = build(family, name, causal=task == next(iter(TASKS)))
    except Exception as error:  # a family's own checks, or packages that are not here
        outcome.not_built = first_line(error)
        return outcome
    try:
        anatomy = read_anatomy(model)
    except NasError as error:
        outcome.refused = str(error)
        return outcome
    except Exception:
        outcome.crashed = traceback.format_exc()
        return outcome
    outcome.layout = str(anatomy.layout)
    outcome.units = dict(Counter(str(choice.kind) for choice in anatomy.choices if choice.level == DROP))
    trials: dict[str, Callable[[Any, Anatomy], str]] = {
        "dropped": try_drops, "decoded": try_decoding, "saved": try_saving, "shape": try_shape, "analysed": try_analysis
    }  # fmt: skip
    for key, trial in (trials | ({"onnx": try_onnx} if onnx else {})).items():
        try:
            setattr(outcome, key, trial(model, anatomy))
        except NasError as error:
            setattr(outcome, key, f"refused: {error}")
        except Exception as error:
            setattr(outcome, key, f"crash: {first_line(error)}")
            outcome.crashed += traceback.format_exc()
    return outcome


@torch.no_grad()
def build(family: str, name: str, causal: bool = False) -> Any:
    """A seeded model in eval mode whose matrices are large enough that every unit matters."""
    config, model_class = build_tiny_config(family, causal), getattr(transformers, name)
    if not isinstance(config, model_class.config_class):
        text = config.get_text_config()
        config = text if isinstance(text, model_class.config_class) else config
    torch.manual_seed(0)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(config).parameters())
    if size > LARGEST:
        raise ValueError(f"its tiny config makes {size} parameters")
    model = model_class(config).eval()
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0.0, 0.12)
        else:
            parameter.uniform_(0.3, 1.1)
    model.tie_weights()
    return model


def try_drops(model: Any, anatomy: Anatomy) -> str:
    """Every unit dropped alone, compared with the intact model under a hook."""
    wrong = []
    for unit in (choice.unit for choice in anatomy.choices if choice.level == DROP and choice.kind.in_blocks):
        small = prune(model, drop_from_parent(anatomy.depth, {unit}), anatomy=anatomy, share_weights=True)
        with overrule(model, anatomy, unit):
            expected = compute(model, anatomy)
        reason = compare(compute(small, anatomy), expected)
        wrong += [f"{unit} {reason}"] if reason else []
    return EXACT if not wrong else f"{len(wrong)} differ: {wrong[0]}"


def try_decoding(model: Any, anatomy: Anatomy) -> str:
    """With the cache, token by token, against one pass: of the parent, without parts, and without a block."""
    if not anatomy.is_decoder:
        return NOTHING
    stepwise = decode(model)
    if stepwise is None:
        return NOTHING
    reason = compare(stepwise, compute(model, anatomy))
    if reason:
        return f"the parent's own {reason}"
    for units in pick_units(anatomy):
        small = prune(model, drop_from_parent(anatomy.depth, units), anatomy=anatomy, share_weights=True)
        stepwise = decode(small)
        reason = "has no cache" if stepwise is None else compare(stepwise, compute(small, anatomy))
        if reason:
            return f"without {', '.join(map(str, sorted(units)))} {reason}"
    return EXACT


def try_saving(model: Any, anatomy: Anatomy) -> str:
    """Without parts and without a block: written, read and compared."""
    for units in pick_units(anatomy):
        with tempfile.TemporaryDirectory() as folder:
            small = prune(model, drop_from_parent(anatomy.depth, units), anatomy=anatomy)
            save(small, Path(folder))
            reason = compare(compute(load(folder), anatomy), compute(small, anatomy))
        if reason:
            return f"without {', '.join(map(str, sorted(units)))} {reason}"
    return EXACT


def try_shape(model: Any, anatomy: Anatomy) -> str:
    """What latency models are given: what each part is, of unlike blocks."""
    blocks = read_shape(model, anatomy).blocks or ()
    words = {part.words for block in blocks for part in block.parts.values()}
    return ", ".join(sorted(words)) or "alike"


def try_analysis(model: Any, anatomy: Anatomy) -> str:
    """The redundancy of every part."""
    measure_redundancy(model, [make_probe_inputs(model, tokens=TOKENS)], anatomy)
    return "done"


def try_onnx(model: Any, anatomy: Anatomy) -> str:
    """The file of the model without the first of each kind of part."""
    from nas.export.onnx_export import ONNX_RUNTIME_OPSET, export_onnx
    from nas.export.parity import check_parity

    small = prune(model, drop_from_parent(anatomy.depth, pick_units(anatomy)[0]), anatomy=anatomy)
    with tempfile.TemporaryDirectory() as folder:
        check_parity(small, export_onnx(small, Path(folder) / "model.onnx", ONNX_RUNTIME_OPSET))
    return EXACT


def pick_units(anatomy: Anatomy) -> list[set[Unit]]:
    """The first of each kind of part together, the first block, and one in the middle."""
    units = [choice.unit for choice in anatomy.choices if choice.level == DROP and choice.kind.in_blocks]
    parts = {kind: next(unit for unit in units if unit.kind == kind) for kind in {unit.kind for unit in units}}
    blocks = [unit for unit in units if unit.kind is Kind.BLOCK]
    picked = [{unit for kind, unit in parts.items() if kind is not Kind.BLOCK}]
    alone = [{blocks[0]}, {blocks[len(blocks) // 2]}] if blocks else []
    return [each for each in (*picked, *alone) if each]


@contextmanager
def overrule(model: Any, anatomy: Anatomy, unit: Unit) -> Iterator[None]:
    """The intact model, whose unit runs and counts for nothing."""
    block = model.get_submodule(anatomy.stack)[unit.layer]

    def write_zeros(module: nn.Module, args: Any, output: Any) -> Any:
        first = torch.zeros_like(output if isinstance(output, Tensor) else output[0])
        return type(output)((first, *output[1:])) if isinstance(output, tuple | list) else first

    def pass_on(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        stream = args[0] if args else next(iter(kwargs.values()))
        return type(output)((stream, *output[1:])) if isinstance(output, tuple | list) else stream

    if unit.kind is Kind.BLOCK:
        handles = [block.register_forward_hook(pass_on, with_kwargs=True)]
    else:
        lasts = anatomy.blocks[unit.layer].get_contribution(unit.kind).lasts
        handles = [block.get_submodule(path).register_forward_hook(write_zeros) for path in lasts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def compute(model: Any, anatomy: Anatomy) -> Tensor:
    """The first output on a probe batch, without a cache."""
    settings = {"use_cache": False} if anatomy.is_decoder else {}
    return model(**make_probe_inputs(model, tokens=TOKENS), **settings)[0].float()


@torch.no_grad()
def decode(model: Any) -> Tensor | None:
    """Logits of a prompt, then token by token; None where a model hands out no cache."""
    ids = make_probe_inputs(model, tokens=TOKENS)["input_ids"]
    given = model(input_ids=ids[:, :PROMPT], use_cache=True)
    name = next((each for each in CACHES if given.get(each) is not None), None)
    if name is None:
        return None
    found = [given.logits]
    for at in range(PROMPT, TOKENS):
        given = model(input_ids=ids[:, at : at + 1], use_cache=True, **{name: given[name]})
        found.append(given.logits)
    return torch.cat(found, dim=1).float()


def compare(found: Tensor, expected: Tensor) -> str:
    """Empty where both are the same."""
    if found.shape != expected.shape:
        return f"has shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if not expected.isfinite().all():
        return "is not finite"
    off = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    return "" if off <= CLOSE else f"is off by {off:.1g}"


def first_line(error: BaseException) -> str:
    """Of its message, with its kind."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def describe(outcome: Outcome) -> str:
    """One line for a person who watches."""
    if outcome.not_built or outcome.refused:
        return f"not built: {outcome.not_built}" if outcome.not_built else f"refused: {outcome.refused}"
    if outcome.crashed and not outcome.layout:
        return f"CRASH {outcome.crashed.strip().splitlines()[-1][:160]}"
    found = " ".join(f"{count} {kind}" for kind, count in outcome.units.items())
    trials = {key: getattr(outcome, key) for key in ("dropped", "decoded", "saved", "shape", "analysed", "onnx")}
    odd = {key: value for key, value in trials.items() if value not in (EXACT, NOTHING, "alike", "done")}
    return f"{outcome.layout}, {found}; {'; '.join(f'{key} {value}' for key, value in odd.items()) or 'all exact'}"


def count(outcomes: list[Outcome]) -> str:
    """How many classes came how far."""
    built = [each for each in outcomes if not each.not_built]
    read = [each for each in built if each.layout]
    clean = [each for each in read if not each.crashed and is_exact(each)]
    return (
        f"{len(outcomes)} classes, {len(built)} built, {len(read)} read, {len(clean)} of them exact throughout, "
        f"{sum(bool(each.refused) for each in built)} refused, {sum(bool(each.crashed) for each in built)} crashed"
    )


def is_exact(outcome: Outcome) -> bool:
    """Whether whatever was tried agreed."""
    return {outcome.dropped, outcome.decoded, outcome.saved} <= {EXACT, NOTHING}


def write_table(options: argparse.Namespace) -> None:
    """The page, from what `run` recorded."""
    document = json.loads(options.file.read_text())
    outcomes = [Outcome(**each) for each in document["outcomes"]]
    options.out.write_text(build_page(document["transformers"], outcomes))


def build_page(version: str, outcomes: list[Outcome]) -> str:
    """Markdown: counts, then a table for each task."""
    lines = [
        "# Families",
        "",
        "<!-- generated by experiments/families.py; do not edit -->",
        "",
        f"What of every class of Transformers {version} can be pruned, tried with tiny random models. Regenerate with",
        "`python experiments/families.py run --out families.json` and `… table families.json --out docs/families.md`.",
        "",
        f"{count(outcomes)}.",
        "",
        "*dropped*: each unit alone, against the intact model with a forward hook. *decoded*: token by token with the",
        "cache, against one pass. *saved*: written, read and compared. ✓ is exact; – does not apply.",
    ]
    for task in dict.fromkeys(each.task for each in outcomes):
        lines += ["", f"## {task[0].upper()}{task[1:]}", ""]
        lines += ["| family | class | read | units | dropped | decoded | saved |", "|---|---|---|---|---|---|---|"]
        lines += [build_row(each) for each in outcomes if each.task == task]
    return "\n".join(lines) + "\n"


def build_row(outcome: Outcome) -> str:
    """One class as a row."""
    head = f"| {outcome.family} | {outcome.model} |"
    if not outcome.layout:
        told = outcome.refused or (f"not built: {outcome.not_built}" if outcome.not_built else "fails")
        return f"{head} {told.replace('|', '/')} | | | | |"
    units = ", ".join(f"{count} {kind}" for kind, count in outcome.units.items())
    cells = (mark(each) for each in (outcome.dropped, outcome.decoded, outcome.saved))
    return f"{head} {outcome.layout.replace('_', '-')} | {units} | {' | '.join(cells)} |"


def mark(word: str) -> str:
    """A cell of the table."""
    return {EXACT: "✓", NOTHING: "–"}.get(word, word.replace("|", "/"))


def main() -> None:
    """Read the arguments and run."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    trial = commands.add_parser("run")
    trial.add_argument("--out", type=Path, required=True)
    trial.add_argument("--only", help="families, with commas between them")
    trial.add_argument("--onnx", action="store_true")
    trial.set_defaults(do=run)
    table = commands.add_parser("table")
    table.add_argument("file", type=Path)
    table.add_argument("--out", type=Path, required=True)
    table.set_defaults(do=write_table)
    options = parser.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
