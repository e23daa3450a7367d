"""A model in another program is only as good as its agreement with the model it was made from.

Logits at two shapes, a step from the cache, and the tokens that follow a prompt are compared with the model in PyTorch.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from nas.export.onnx_export import Exportable, list_input_names, make_example_inputs
from nas.export.parity import SHAPES, TOLERANCE, Trial, choose_tolerance, make_trial_inputs
from nas.formats.format import TOKENS, Answers, Format, NotRun, Probe
from nas.formats.source import Source
from pruning.anatomy.part import is_encoder_decoder
from pruning.anatomy.positions import forget_lengths
from pruning.reduction.inspection import find_token_hooks
from pruning.surgery.quantised_linear import QuantisedLinear
from search_spaces.errors import ExportError
from search_spaces.weight_formats import Inputs

_PROMPT = 9  # tokens
_LEAST_SECONDS = 0.3  # that a rate is measured for


@dataclass(frozen=True)
class Parity:
    """How a written folder compares with its model, in its own program.

    Attributes:
        bytes: of all files of the folder.
        program: that ran it; empty where none did, for the reason in `note`.
        differences: the largest of each comparison, relative to outputs above 1.
        same_tokens: how many of the greedy ones before the first that differs, of `tokens`; both 0 without a prompt.
        rate: tokens, or items, per second.

    Example:
        >>> parity = check(FORMATS["hf"], source, Path("OUT/formats/hf"))
        >>> parity.differences["logits (1, 5)"]
        0.0
    """

    bytes: int
    program: str = ""
    note: str = ""
    differences: tuple[tuple[str, float], ...] = ()
    tolerance: float = 0.0
    same_tokens: int = 0
    tokens: int = 0
    load_seconds: float = 0.0
    rate: float = 0.0
    unit: str = ""

    @property
    def worst(self) -> float:
        """The largest difference."""
        return max((value for _, value in self.differences), default=0.0)


class Loaded(Protocol):
    """A model in a program of this process."""

    def run(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """The outputs of all items; of a decoder, logits of all tokens, or of the last (batch, 1, vocabulary)."""


@runtime_checkable
class LoadedDecoder(Loaded, Protocol):
    """A decoder in a program of this process."""

    def step(self, prompt: Tensor) -> np.ndarray:
        """(vocabulary,) of the last token of a prompt (1, tokens), which is read after the others are in the cache."""

    def generate(self, prompt: Tensor, count: int, stop: tuple[int, ...]) -> list[int]:
        """The likeliest tokens after a prompt, up to the first that ends the text."""


@torch.no_grad()
def build_probe(model: Any, whole: bool = False) -> Probe:
    """What is asked of every program, and what the model answers.

    Args:
        whole: of an encoder-decoder the model is asked, not the stack that is pruned.
    """
    inputs = tuple(_make_inputs(model, shape, whole) for shape in SHAPES)
    expected = tuple(_run(model, each, whole) for each in inputs)
    tolerance = choose_tolerance(model)
    shapes = tuple(f"outputs {tuple(each.shape[:2]) if each.ndim > 2 else (len(each),)}" for each in expected)
    probe = Probe(inputs, expected, (tolerance,) * len(SHAPES), shapes)
    if not decodes(model):
        return probe
    prompt = make_example_inputs(model, 1, _PROMPT, seed=3)["input_ids"]
    stop = _read_stop(model)
    forget_lengths(model)
    step = model(input_ids=prompt, use_cache=False).logits[0, -1]
    forget_lengths(model)
    made = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=TOKENS, do_sample=False, num_beams=1,
        repetition_penalty=1.0, pad_token_id=0, eos_token_id=list(stop) or None,
    )  # fmt: skip
    tokens = tuple(made[0, prompt.shape[1] :].tolist())
    return replace(probe, prompt=prompt, step=step, tokens=tokens, exact_tokens=tolerance <= TOLERANCE, stop=stop)


def decodes(model: Any) -> bool:
    """Whether a model goes on with a text from a cache as one pass over it does, and reads nothing but words."""
    words = {"input_ids", "attention_mask", "position_ids"}
    return (
        not is_encoder_decoder(model)
        and "position_ids" in list_input_names(model)
        and set(list_input_names(model)) <= words
        and model.get_output_embeddings() is not None
        and find_token_hooks(model) is None
        and not rounds_by_call(model)
    )


def rounds_by_call(model: Any) -> bool:
    """Whether inputs are rounded with one scale for all tokens of a call: then what a token gives depends on which
    others are read with it, and a step from a cache is no part of a pass over all tokens."""
    return any(isinstance(part, QuantisedLinear) and part.format.inputs is Inputs.CALL for part in model.modules())


def check(format: Format, source: Source, folder: Path) -> Parity:
    """How a written folder compares with its model.

    Raises:
        ExportError: it is further off than the precision allows, or its program fails.
    """
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    probe = format.build_probe(source)
    answers = format.ask(source, folder, probe)
    if isinstance(answers, NotRun):
        return Parity(size, note=answers.reason)
    differences = _list_differences(probe, answers)
    same = _count_same(answers.tokens, probe.tokens)
    unit = "item" if probe.prompt is None else "token"
    parity = Parity(
        size, answers.program, answers.note, differences, max(probe.tolerances), same, len(probe.tokens),
        answers.load_seconds, answers.rate, unit,
    )  # fmt: skip
    limits = (*probe.tolerances, probe.tolerances[-1])  # a cached step may be as far off as the outputs before it
    wrong = next(
        (f"{name} differ by {value:.1e}, tolerance {limit:.0e}"
         for (name, value), limit in zip(differences, limits, strict=False) if not value <= limit), "",
    )  # fmt: skip
    if not wrong and probe.exact_tokens and same < len(probe.tokens):
        wrong = f"after {same} of {len(probe.tokens)} greedy tokens another follows"
    if wrong:
        raise ExportError(f"{format.name} in {answers.program}: {wrong}; do not deploy it")
    return parity


def answer(program: str, load: Callable[[], Loaded], probe: Probe, note: str = "") -> Answers:
    """What a program of this process answers to all of a probe, with how fast it is.

    Raises:
        ExportError: it fails.
    """
    try:
        began = time.perf_counter()
        loaded = load()
        seconds = time.perf_counter() - began
        outputs = tuple(loaded.run(each) for each in probe.inputs)
        if probe.prompt is None:
            rate = _measure_items(loaded, probe)
            return Answers(program, outputs, seconds, rate, note=note)
        assert isinstance(loaded, LoadedDecoder), "only decoders are asked to go on with a text"
        step = loaded.step(probe.prompt)
        tokens, rate = _time_tokens(loaded, probe)
        return Answers(program, outputs, seconds, rate, step, tokens, note)
    except Exception as error:  # a program fails in its own ways
        raise ExportError(
            f"{program} fails: {(str(error).strip().splitlines() or [type(error).__name__])[0][:200]}"
        ) from error


def _time_tokens(loaded: LoadedDecoder, probe: Probe) -> tuple[tuple[int, ...], float]:
    """The tokens, and how many a second are made once it is warm."""
    assert probe.prompt is not None
    tokens = tuple(int(token) for token in loaded.generate(probe.prompt, TOKENS, probe.stop))
    made, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < _LEAST_SECONDS or not made:
        made += len(loaded.generate(probe.prompt, TOKENS, probe.stop))
    return tokens, made / seconds


def _measure_items(loaded: Loaded, probe: Probe) -> float:
    """Items a second of the larger shape."""
    items, runs, began = len(probe.expected[-1]), 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < _LEAST_SECONDS:
        loaded.run(probe.inputs[-1])
        runs += 1
    return items * runs / seconds


def _make_inputs(model: Any, shape: tuple[int, int], whole: bool) -> dict[str, Tensor]:
    if not (whole and is_encoder_decoder(model)):
        return make_trial_inputs(model, Trial(*shape), seed=0)
    batch, words = shape
    generator = torch.Generator().manual_seed(words)
    source = torch.randint(3, model.config.vocab_size, (batch, words), generator=generator)
    target = source[:, : words - 1].contiguous()
    if model.main_input_name == "input_ids":
        return {"input_ids": source, "decoder_input_ids": target}
    frames = 2 * model.config.max_source_positions
    features = torch.randn(batch, model.config.num_mel_bins, frames, generator=generator)
    return {model.main_input_name: features, "decoder_input_ids": target}


def _run(model: Any, inputs: Mapping[str, Tensor], whole: bool) -> Tensor:
    """The first output of the model, or of its pruned stack."""
    forget_lengths(model)
    given = model(**inputs) if whole and is_encoder_decoder(model) else Exportable(model)(*inputs.values())
    first: Tensor = given[0]
    return first.float()


def _read_stop(model: Any) -> tuple[int, ...]:
    """The tokens that end a text."""
    end = model.generation_config.eos_token_id
    return () if end is None else tuple(end) if isinstance(end, (list, tuple)) else (int(end),)


def _list_differences(probe: Probe, answers: Answers) -> tuple[tuple[str, float], ...]:
    named = [
        (name, _measure(actual, expected))
        for name, actual, expected in zip(probe.names, answers.outputs, probe.expected, strict=True)
    ]
    if probe.step is not None and answers.step is not None:
        named.append(("cached step", _measure(answers.step, probe.step)))
    return tuple(named)


def _measure(actual: np.ndarray, expected: Tensor) -> float:
    """The largest difference, relative to outputs above 1; where only last tokens are given, of those."""
    wanted = expected.float().numpy()
    if actual.ndim == wanted.ndim == 3 and actual.shape[1] < wanted.shape[1]:
        wanted = wanted[:, -actual.shape[1] :]
    if actual.shape != wanted.shape:
        return float("inf")
    return float(np.abs(actual.astype(np.float32) - wanted).max() / max(1.0, float(np.abs(wanted).max())))


def _count_same(given: tuple[int, ...], expected: tuple[int, ...]) -> int:
    pairs = zip(given, expected, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(given), len(expected)))
