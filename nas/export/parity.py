"""An exported file is only as good as its agreement with the model it came from.

The truth is the model without a cache: what `prefill` and `decode` give after a prompt is compared with one pass over
all tokens. Keys and values are compared with those that the model itself keeps. Where tokens are dropped, decoding is
compared with the model's own, as one pass over all tokens would drop others.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latency_models.runtime_ort import default_threads, open_session
from latency_models.workload import Phase
from nas.export.cached_export import cache_layers, past_of
from nas.export.images import PIXELS, image_tokens
from nas.export.onnx_export import example_inputs, input_names
from pruning.reduction.inspection import always_kept, token_hooks
from search_spaces.errors import ExportError

TOLERANCE = 1e-4
SHAPES = ((1, 5), (3, 12))  # batch and words, other than the traced ones, batch 1 among them
TRIES = 3  # with other inputs, where tokens are ranked
STEPS = 3  # tokens decoded one after another, each from what the one before handed over


@torch.no_grad()
def check_parity(model: Any, path: Path, phase: Phase = Phase.FORWARD, tolerance: float = TOLERANCE) -> float:
    """The largest absolute difference between file and model over two shapes, relative to outputs above 1.

    Args:
        path: the exported file of this phase.

    Raises:
        ExportError: when it exceeds `tolerance`, or the model has no such phase.
        MeasurementError: when ONNX Runtime refuses the file.
    """
    differences = {Phase.FORWARD: _forward, Phase.PREFILL: _prefill, Phase.DECODE: _decode}[phase]
    file = _File(path)
    more = image_tokens(model) + always_kept(model)
    # A file that is wrong is wrong for all inputs; which of two tokens stays may be decided by rounding for one.
    seeds = range(TRIES if token_hooks(model) is not None else 1)
    worst = 0.0
    for batch, words in SHAPES:
        found = (differences(model, file, batch, words + more, seed) for seed in seeds)
        worst = max(worst, _least(found, tolerance))
    if not worst <= tolerance:
        raise ExportError(f"{path.name} differs from the model by {worst:.1e}, above {tolerance:.0e}; do not deploy it")
    return worst


def _least(differences: Iterable[float], tolerance: float) -> float:
    """The first that is tolerable, else the least; infinite where none is a number."""
    least = float("inf")
    for difference in differences:
        least = min(least, difference)
        if least <= tolerance:
            break
    return least


class _File:
    """An exported file that is run."""

    def __init__(self, path: Path) -> None:
        self.path, self.session = path, open_session(path, default_threads())
        self.outputs = [node.name for node in self.session.get_outputs()]

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name; inputs that the file does not ask for are left out."""
        feed = {node.name: np.asarray(inputs[node.name]) for node in self.session.get_inputs() if node.name in inputs}
        try:
            return dict(zip(self.outputs, self.session.run(None, feed), strict=True))
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:200]
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feed.items())
            raise ExportError(f"{self.path.name} fails at {shapes}: {reason}") from error

    def difference(self, actual: Sequence[np.ndarray], expected: Sequence[Tensor]) -> float:
        """The largest over pairs of outputs."""
        shapes = [array.shape for array in actual], [tuple(tensor.shape) for tensor in expected]
        if shapes[0] != shapes[1]:
            raise ExportError(f"{self.path.name} gives the shapes {shapes[0]} where the model gives {shapes[1]}")
        pairs = [(array, tensor.numpy()) for array, tensor in zip(actual, expected, strict=True)]
        return float(np.max([np.abs(a - e).max() / max(1.0, float(np.abs(e).max())) for a, e in pairs]))


def _without_cache(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    fixed = {"use_cache": False} if "position_ids" in input_names(model) else {}
    output: Tensor = model(**inputs, **fixed)[0]
    return output


def _past(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the model keeps of its inputs, under the names that a file of `decode` takes it by."""
    cache = model(**inputs, use_cache=True).past_key_values
    return past_of(model, cache, cache_layers(model, Phase.PREFILL), inputs["attention_mask"])


def _forward(model: Any, file: _File, batch: int, sequence: int, seed: int) -> float:
    inputs = example_inputs(model, batch, sequence, seed=batch + 10 * seed)
    return file.difference(list(file.run(inputs).values())[:1], [_without_cache(model, inputs)])


def _prefill(model: Any, file: _File, batch: int, sequence: int, seed: int) -> float:
    inputs = example_inputs(model, batch, sequence, seed=batch + 10 * seed)
    past = _past(model, inputs)
    given = file.run(inputs)
    actual = [given.get(name, np.zeros(0)) for name in ("logits", *map(_handed_over, past))]
    return file.difference(actual, [_without_cache(model, inputs)[:, -1:], *past.values()])


def _decode(model: Any, file: _File, batch: int, sequence: int, seed: int) -> float:
    whole = example_inputs(model, batch, sequence + STEPS, seed=batch + 10 * seed)
    expected = _after(model, whole, sequence)
    prompt = {name: tensor if name == PIXELS else tensor[:, :sequence] for name, tensor in whole.items()}
    words = {name: tensor for name, tensor in whole.items() if name != PIXELS}
    past: dict[str, Any] = dict(_past(model, prompt))
    differences = []
    for place in range(sequence, sequence + STEPS):
        new = {name: tensor[:, place : place + 1] for name, tensor in words.items()}
        given = file.run(new | {"attention_mask": whole["attention_mask"][:, : place + 1]} | past)
        differences.append(file.difference([given["logits"]], [expected[:, place - sequence][:, None]]))
        past = {name: given[_handed_over(name)] for name in past}
    return float(np.max(differences))


def _after(model: Any, whole: Mapping[str, Tensor], prompt: int) -> Tensor:
    """(batch, STEPS, vocabulary) after each token that follows a prompt.

    From one pass over all tokens; where tokens are dropped from the model's own cache, as that pass would drop of the
    tokens that follow, too.
    """
    if token_hooks(model) is None:
        return _without_cache(model, whole)[:, prompt:]
    words = {name: tensor for name, tensor in whole.items() if name != PIXELS}
    given = {name: tensor if name == PIXELS else tensor[:, :prompt] for name, tensor in whole.items()}
    cache, logits = model(**given, use_cache=True).past_key_values, []
    for place in range(prompt, prompt + STEPS):
        new = {name: tensor[:, place : place + 1] for name, tensor in words.items()}
        new |= {"attention_mask": whole["attention_mask"][:, : place + 1]}
        logits.append(model(**new, past_key_values=cache, use_cache=True).logits[:, -1])
    return torch.stack(logits, 1)


def _handed_over(name: str) -> str:
    return name.replace("past", "present", 1)
