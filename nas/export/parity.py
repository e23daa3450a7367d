"""An exported file is only as good as its agreement with the model it came from.

The truth is the model without a cache: what `prefill` and `decode` give after a prompt is compared with one pass over
all tokens. Keys and values are compared with those that the model itself keeps. Where tokens are dropped, or rotary
frequencies follow from the length, decoding is compared with the model's own: one pass over all tokens would drop
others, and turn all keys anew.

Few tokens do not tell whether a file is right: positions change with the length, and a trace may hold those of its own.
So files are run on both sides of every length at which they do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latency_models.runtime_ort import count_default_threads, open_session
from latency_models.workload import Phase
from nas.export.cached_export import clear_past, read_cache_layers, read_past
from nas.export.images import count_image_tokens
from nas.export.onnx_export import Exportable, list_input_names, list_output_names, make_example_inputs
from pruning.anatomy.part import PIXELS
from pruning.anatomy.positions import (
    find_lengths_of_change,
    find_longest_sequence,
    find_rotaries_by_length,
    forget_lengths,
)
from pruning.checkpoint.sentence_embedding import read_sentence_embedding
from pruning.reduction.inspection import count_always_kept, find_token_hooks
from pruning.surgery.quantised_linear import QuantisedLinear, bypass_rounding
from search_spaces.errors import ExportError

TOLERANCE = 1e-4
HALF_TOLERANCE = 2e-2  # in fp16
ROUNDED_TOLERANCE = 3e-2  # with weights of fewer bits: the last bit of an input may round its value up or down
SHAPES = ((1, 5), (3, 12))  # batch and words, other than the traced ones, batch 1 among them
TRIES = 3  # with other inputs, where tokens are ranked
STEPS = 3  # tokens decoded one after another, each from what the one before handed over
LONGEST = 8192  # tokens that are run at once: attention takes memory by their square
# Rounded values are multiplied as they are written: ONNX Runtime's own products of eight bits saturate without VNNI.
_UNFUSED = {"session.disable_quant_qdq": "1"}
_NEAR = 32  # tokens before a position at which rotary frequencies change: which token it is follows from an input


@dataclass(frozen=True)
class Trial:
    """One comparison: so many sequences, of so many words, the first at a position."""

    batch: int
    words: int
    first: int = 0


def list_trials(model: Any) -> list[Trial]:
    """What a file of a model is tried with: short sequences, and those around every length of another kind."""
    more, longest = count_image_tokens(model) + count_always_kept(model), find_longest_sequence(model) or LONGEST
    rotary, windows = find_lengths_of_change(model)
    placed = "position_ids" in list_input_names(model)
    trials = [Trial(batch, words) for batch, words in SHAPES]
    for length in rotary:
        first = max(0, length - _NEAR - more) if placed else 0
        trials += [Trial(1, length - first + beyond - more, first) for beyond in (1 - STEPS, STEPS)]
    trials += [Trial(1, window + STEPS - more) for window in windows]
    if find_longest_sequence(model) is not None:
        trials.append(Trial(1, longest - more))
    max_length = min(longest, LONGEST) - more
    return list(
        dict.fromkeys(Trial(t.batch, min(t.words, max_length), t.first) for t in trials if 0 < t.words <= LONGEST)
    )


@torch.no_grad()
def choose_tolerance(model: Any, dtype: torch.dtype = torch.float32) -> float:
    """How far a file of a type may be from its model: further in fp16, and where inputs are rounded to eight bits.

    A value between two whole numbers is rounded up in one and down in the other, which moves what is rounded after it:
    in some models as far as rounding itself does.
    """
    if dtype == torch.float16:
        return HALF_TOLERANCE
    if not any(isinstance(module, QuantisedLinear) for module in model.modules()):
        return TOLERANCE
    inputs = make_trial_inputs(model, list_trials(model)[-1], seed=0)
    forget_lengths(model)
    rounded = Exportable(model)(*inputs.values())
    with bypass_rounding(model):
        forget_lengths(model)
        exact = Exportable(model)(*inputs.values())
    pairs = zip(rounded, exact, strict=True) if isinstance(rounded, (tuple, list)) else [(rounded, exact)]
    moved = [float((one - other).abs().max()) / max(1.0, float(one.abs().max())) for one, other in pairs]
    return max(ROUNDED_TOLERANCE, *moved)


@torch.no_grad()
def check_parity(model: Any, path: Path, phase: Phase = Phase.FORWARD, tolerance: float | None = None) -> float:
    """The largest absolute difference between file and model over all of `list_trials`, relative to outputs above 1.

    Args:
        path: the exported file of this phase.
        tolerance: None for that of the model in float32 (`choose_tolerance`).

    Raises:
        ExportError: when it exceeds `tolerance`, or the model has no such phase.
        MeasurementError: when ONNX Runtime refuses the file.
    """
    differences = {Phase.FORWARD: _compare_forward, Phase.PREFILL: _compare_prefill, Phase.DECODE: _decode}[phase]
    tolerance, file = choose_tolerance(model) if tolerance is None else tolerance, _File(path)
    # A file that is wrong is wrong for all inputs; which of two tokens stays may be decided by rounding for one.
    seeds = range(TRIES if find_token_hooks(model) is not None else 1)
    worst = 0.0
    for trial in list_trials(model):
        measured = (differences(model, file, trial, seed) for seed in seeds)
        worst = max(worst, _find_smallest(measured, tolerance))
    if not worst <= tolerance:
        raise ExportError(f"{path.name} differs from the model by {worst:.1e}, above {tolerance:.0e}; do not deploy it")
    return worst


def _find_smallest(differences: Iterable[float], tolerance: float) -> float:
    """The first that is tolerable, else the smallest; infinite where none is a number."""
    smallest = float("inf")
    for difference in differences:
        smallest = min(smallest, difference)
        if smallest <= tolerance:
            break
    return smallest


def _cast(array: np.ndarray, declared: str) -> np.ndarray:
    """Numbers in the type that a file declares for an input."""
    return array.astype(np.float16) if declared == "tensor(float16)" else array


class _File:
    """An exported file that is run."""

    def __init__(self, path: Path) -> None:
        self.path, self.session = path, open_session(path, count_default_threads(), _UNFUSED)
        self.outputs = [node.name for node in self.session.get_outputs()]

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name; inputs that the file does not ask for are left out."""
        feed = {
            node.name: _cast(np.asarray(inputs[node.name]), node.type)
            for node in self.session.get_inputs()
            if node.name in inputs
        }
        try:
            return dict(zip(self.outputs, self.session.run(None, feed), strict=True))
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:200]
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feed.items())
            raise ExportError(f"{self.path.name} fails at {shapes}: {reason}") from error

    def measure_difference(self, actual: Sequence[np.ndarray], expected: Sequence[Tensor]) -> float:
        """The largest over pairs of outputs."""
        shapes = [array.shape for array in actual], [tuple(tensor.shape) for tensor in expected]
        if shapes[0] != shapes[1]:
            raise ExportError(f"{self.path.name} gives the shapes {shapes[0]} where the model gives {shapes[1]}")
        pairs = [
            (array.astype(np.float32), tensor.float().numpy()) for array, tensor in zip(actual, expected, strict=True)
        ]
        return float(np.max([np.abs(a - e).max() / max(1.0, float(np.abs(e).max())) for a, e in pairs]))


def make_trial_inputs(model: Any, trial: Trial, seed: int, steps: int = 0) -> dict[str, Tensor]:
    """Random inputs of a trial and `steps` words more; fewer before them where the model has no positions for all."""
    more, longest = count_image_tokens(model) + count_always_kept(model), find_longest_sequence(model)
    length = trial.words + more + steps
    given = make_example_inputs(
        model, trial.batch, length if longest is None else min(length, longest), trial.batch + 10 * seed
    )
    return {name: tensor + trial.first if name == "position_ids" else tensor for name, tensor in given.items()}


def _run_without_cache(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    forget_lengths(model)
    fixed = {"use_cache": False} if "position_ids" in list_input_names(model) else {}
    output: Tensor = model(**inputs, **fixed)[0]
    return output


def _read_past(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the model keeps of its inputs, under the names that a file of `decode` takes it by."""
    forget_lengths(model)
    cache = model(**inputs, use_cache=True).past_key_values
    return read_past(model, cache, read_cache_layers(model, Phase.PREFILL), inputs["attention_mask"])


def _compare_forward(model: Any, file: _File, trial: Trial, seed: int) -> float:
    inputs = make_trial_inputs(model, trial, seed)
    if read_sentence_embedding(model) is not None and trial.batch > 1:
        inputs["attention_mask"][0, trial.words // 2 :] = 0  # a short text: which tokens are pooled the mask tells
    forget_lengths(model)
    given = file.run(inputs)
    return file.measure_difference(
        [given[name] for name in list_output_names(model)], Exportable(model)(*inputs.values())
    )


def _compare_prefill(model: Any, file: _File, trial: Trial, seed: int) -> float:
    inputs = make_trial_inputs(model, trial, seed)
    return _read(model, file, inputs, inputs, _read_past(model, inputs))


def _read(
    model: Any, file: _File, inputs: Mapping[str, Tensor], fed: Mapping[str, Any], past: Mapping[str, Tensor]
) -> float:
    """How far a file that is fed a prompt is from the model: its last logits, and what is kept of it."""
    given = file.run(fed)
    actual = [given.get(name, np.zeros(0)) for name in ("logits", *map(_describe_handover, past))]
    return file.measure_difference(actual, [_run_without_cache(model, inputs)[:, -1:], *past.values()])


def _decode(model: Any, file: _File, trial: Trial, seed: int) -> float:
    whole = make_trial_inputs(model, trial, seed, STEPS)
    sequence = whole["attention_mask"].shape[1] - STEPS
    expected = _run_after(model, whole, sequence)
    prompt = {name: tensor if name == PIXELS else tensor[:, :sequence] for name, tensor in whole.items()}
    words = {name: tensor for name, tensor in whole.items() if name != PIXELS}
    past: dict[str, Any] = dict(_read_past(model, prompt))
    differences = []
    if words.keys() == whole.keys() and find_token_hooks(model) is None:  # the file can read the prompt, too
        nothing = clear_past(past, read_cache_layers(model, Phase.DECODE))
        differences.append(_read(model, file, prompt, prompt | nothing, past))
    for position in range(sequence, sequence + STEPS):
        new = {name: tensor[:, position : position + 1] for name, tensor in words.items()}
        given = file.run(new | {"attention_mask": whole["attention_mask"][:, : position + 1]} | past)
        differences.append(file.measure_difference([given["logits"]], [expected[:, position - sequence][:, None]]))
        past = {name: given[_describe_handover(name)] for name in past}
    return float(np.max(differences))


def _run_after(model: Any, whole: Mapping[str, Tensor], prompt: int) -> Tensor:
    """(batch, STEPS, vocabulary) after each token that follows a prompt.

    From one pass over all tokens, or from the model's own cache where that pass would give another answer.
    """
    if find_token_hooks(model) is None and not any(find_rotaries_by_length(model)):
        return _run_without_cache(model, whole)[:, prompt:]
    forget_lengths(model)
    words = {name: tensor for name, tensor in whole.items() if name != PIXELS}
    given = {name: tensor if name == PIXELS else tensor[:, :prompt] for name, tensor in whole.items()}
    cache, logits = model(**given, use_cache=True).past_key_values, []
    for position in range(prompt, prompt + STEPS):
        new = {name: tensor[:, position : position + 1] for name, tensor in words.items()}
        new |= {"attention_mask": whole["attention_mask"][:, : position + 1]}
        logits.append(model(**new, past_key_values=cache, use_cache=True).logits[:, -1])
    return torch.stack(logits, 1)


def _describe_handover(name: str) -> str:
    return name.replace("past", "present", 1)
