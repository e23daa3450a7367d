"""What of a family can be read, pruned, decoded, saved and exported, tried on a tiny random model.

Each unit is dropped once, and the outcome compared with the intact model whose part is overruled by a forward hook.
"""

import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from nas.families.outcome import EXACT, NOTHING, TRIALS, Outcome
from nas.families.tiny_config import build_tiny_config, shrink_config
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

TOKENS, PROMPT = 11, 6
CACHES = ("past_key_values", "cache_params", "state")
CLOSE = 1e-3  # of the largest output
LARGEST = 100_000_000  # parameters; a family whose sizes are not found is not built


def try_family(task: str, family: str, name: str, causal: bool, onnx: bool = False) -> Outcome:
    """Build a tiny model of a class and try on it whatever a search would do.

    Args:
        task: what the class is for, for the report.
        family: its model type.
        name: of the class.
        causal: an encoder that may also be built as a decoder is to be one.
        onnx: export it, too, which takes seconds.
    """
    return _try(Outcome(task, family, name), lambda: build_tiny_config(family, causal), onnx)


def try_config(config: Any, name: str, onnx: bool = False) -> Outcome:
    """The same for the class of this name and a config of any size, of which a tiny one of the same form is made."""
    return _try(Outcome("", config.model_type, name), lambda: shrink_config(config), onnx)


def _try(outcome: Outcome, make_config: Callable[[], Any], onnx: bool) -> Outcome:
    try:
        model = build_tiny_model(outcome.model, make_config())
    except Exception as error:  # a family's own checks, or packages that are not here
        outcome.not_built = _get_first_line(error)
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
    outcome.parts = anatomy.count_natures()
    outcome.units = dict(Counter(str(choice.kind) for choice in anatomy.choices if choice.level == DROP))
    trials = (_try_drops, _try_decoding, _try_saving, _try_shape, _try_analysis, *((_try_onnx,) if onnx else ()))
    for key, trial in zip(TRIALS, trials, strict=False):
        try:
            setattr(outcome, key, trial(model, anatomy))
        except NasError as error:
            setattr(outcome, key, f"refused: {error}")
        except Exception as error:  # what is to be found out
            setattr(outcome, key, f"crash: {_get_first_line(error)}")
            outcome.crashed += traceback.format_exc()
    return outcome


@torch.no_grad()
def build_tiny_model(name: str, config: Any) -> Any:
    """A seeded model in eval mode whose matrices are large enough that every unit matters.

    Raises:
        Exception: of any kind, from the family's own checks.
    """
    model_class = getattr(transformers, name)
    if not isinstance(config, model_class.config_class):
        text = config.get_text_config()
        config = text if isinstance(text, model_class.config_class) else config
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(config).parameters())
    if size > LARGEST:
        raise ValueError(f"its tiny config makes {size} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).eval()
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.12)
            else:
                parameter.uniform_(0.3, 1.1)
    model.tie_weights()
    return model


def _try_drops(model: Any, anatomy: Anatomy) -> str:
    """Every unit dropped alone, compared with the intact model under a hook."""
    wrong = []
    for unit in (choice.unit for choice in anatomy.choices if choice.level == DROP and choice.kind.in_blocks):
        small = prune(model, drop_from_parent(anatomy.depth, {unit}), anatomy=anatomy, share_weights=True)
        with _overrule(model, anatomy, unit):
            expected = _compute(model, anatomy)
        reason = _compare(_compute(small, anatomy), expected)
        wrong += [f"{unit} {reason}"] if reason else []
    return EXACT if not wrong else f"{len(wrong)} differ: {wrong[0]}"


def _try_decoding(model: Any, anatomy: Anatomy) -> str:
    """With the cache, token by token, against one pass: of the parent, without parts, and without a block."""
    if not anatomy.is_decoder:
        return NOTHING
    try:
        stepwise = _decode(model)
    except Exception as error:  # a family that decodes in another way, as with all tokens and a cache
        return f"the parent's own fails: {_get_first_line(error)}"
    if stepwise is None:
        return NOTHING
    reason = _compare(stepwise, _compute(model, anatomy))
    if reason:
        return f"the parent's own {reason}"
    for units in _pick_units(anatomy):
        small = prune(model, drop_from_parent(anatomy.depth, units), anatomy=anatomy, share_weights=True)
        stepwise = _decode(small)
        reason = "has no cache" if stepwise is None else _compare(stepwise, _compute(small, anatomy))
        if reason:
            return f"without {', '.join(map(str, sorted(units)))} {reason}"
    return EXACT


def _try_saving(model: Any, anatomy: Anatomy) -> str:
    """Without parts and without a block: written, read and compared."""
    for units in _pick_units(anatomy):
        with tempfile.TemporaryDirectory() as folder:
            small = prune(model, drop_from_parent(anatomy.depth, units), anatomy=anatomy)
            save(small, Path(folder))
            reason = _compare(_compute(load(folder), anatomy), _compute(small, anatomy))
        if reason:
            return f"without {', '.join(map(str, sorted(units)))} {reason}"
    return EXACT


def _try_shape(model: Any, anatomy: Anatomy) -> str:
    """What latency models are given: what each part is, of unlike blocks."""
    blocks = read_shape(model, anatomy).blocks or ()
    words = {part.words for block in blocks for part in block.parts.values()}
    return ", ".join(sorted(words)) or "alike"


def _try_analysis(model: Any, anatomy: Anatomy) -> str:
    """The redundancy of every part."""
    measure_redundancy(model, [make_probe_inputs(model, tokens=TOKENS)], anatomy)
    return "done"


def _try_onnx(model: Any, anatomy: Anatomy) -> str:
    """The file of the model without the first of each kind of part."""
    from nas.export.onnx_export import ONNX_RUNTIME_OPSET, export_onnx
    from nas.export.parity import check_parity

    small = prune(model, drop_from_parent(anatomy.depth, _pick_units(anatomy)[0]), anatomy=anatomy)
    with tempfile.TemporaryDirectory() as folder:
        check_parity(small, export_onnx(small, Path(folder) / "model.onnx", ONNX_RUNTIME_OPSET))
    return EXACT


def _pick_units(anatomy: Anatomy) -> list[set[Unit]]:
    """The first of each kind of part together, the first block, and one in the middle."""
    units = [choice.unit for choice in anatomy.choices if choice.level == DROP and choice.kind.in_blocks]
    parts = {kind: next(unit for unit in units if unit.kind == kind) for kind in {unit.kind for unit in units}}
    blocks = [unit for unit in units if unit.kind is Kind.BLOCK]
    picked = [{unit for kind, unit in parts.items() if kind is not Kind.BLOCK}]
    alone = [{blocks[0]}, {blocks[len(blocks) // 2]}] if blocks else []
    return [each for each in (*picked, *alone) if each]


@contextmanager
def _overrule(model: Any, anatomy: Anatomy, unit: Unit) -> Iterator[None]:
    """The intact model, whose unit runs and counts for nothing."""
    block = model.get_submodule(anatomy.stack)[unit.layer]

    def write_zeros(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return torch.zeros_like(output)
        others = (torch.zeros_like(each) if isinstance(each, nn.Parameter) else each for each in output[1:])
        return type(output)((torch.zeros_like(output[0]), *others))

    def pass_on(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        stream = args[0] if args else next(iter(kwargs.values()))
        return type(output)((stream, *output[1:])) if isinstance(output, tuple | list) else stream

    if unit.kind is Kind.BLOCK:
        handles = [block.register_forward_hook(pass_on, prepend=True, with_kwargs=True)]
    else:
        lasts = anatomy.blocks[unit.layer].get_contribution(unit.kind).lasts
        handles = [block.get_submodule(path).register_forward_hook(write_zeros) for path in lasts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _compute(model: Any, anatomy: Anatomy) -> Tensor:
    """The first output on a probe batch, without a cache."""
    settings = {"use_cache": False} if anatomy.is_decoder else {}
    output: Tensor = model(**make_probe_inputs(model, tokens=TOKENS), **settings)[0]
    return output.float()


@torch.no_grad()
def _decode(model: Any) -> Tensor | None:
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


def _compare(found: Tensor, expected: Tensor) -> str:
    """Empty where both are the same."""
    if found.shape != expected.shape:
        return f"has shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if not expected.isfinite().all():
        return "is not finite"
    off = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    return "" if off <= CLOSE else f"is off by {off:.1g}"


def _get_first_line(error: BaseException) -> str:
    """Of its message, with its kind."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
