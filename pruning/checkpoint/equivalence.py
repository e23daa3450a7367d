"""Whether two models are the same one: in structure, in weights, in what they compute."""

import re
from pathlib import Path
from typing import Any

import torch

from pruning.anatomy.agreement import get_first_output
from pruning.anatomy.language_model import find_word_config
from pruning.anatomy.likeness import collect_constants
from pruning.anatomy.probe import TOKENS, build_probe_run
from search_spaces.errors import ArchitectureError

_NUMBERED = re.compile(r"(^|\.)\d+(\.|$)")
_TOKENS = 24
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}  # of the largest output
_HALF = 2e-2


def find_first_difference(model: Any, other: Any) -> str | None:
    """The first thing in which two models differ by structure, in words; None where they do not.

    Compared are the names and shapes of all weights, and inside the blocks every module's class and constants: of
    what a block derives from its place among the others, only these tell.
    """
    shapes = [{name: tuple(tensor.shape) for name, tensor in each.state_dict().items()} for each in (model, other)]
    for name in sorted({*shapes[0], *shapes[1]}):
        if shapes[0].get(name) != shapes[1].get(name):
            return str(name)
    theirs = dict(other.named_modules())
    for path, module in model.named_modules():
        if not _NUMBERED.search(path):
            continue
        if type(module) is not type(theirs.get(path)):
            return str(path)
        wrong = next(
            (key for key, value in collect_constants(module).items() if getattr(theirs[path], key, None) != value),
            None,
        )
        if wrong is not None:
            return f"{path}.{wrong}"
    return None


@torch.no_grad()
def check_same(model: Any, again: Any, folder: Path) -> None:
    """Compare a model with what was read back from its folder: structure, weights, and outputs on a probe batch.

    Raises:
        ArchitectureError: they are not the same.
    """
    wrong = find_first_difference(model, again) or _find_other_value(model, again) or _find_other_output(model, again)
    if wrong is not None:
        raise ArchitectureError(
            f"{folder}: a {type(model).__name__} without these parts does not come back from its folder as it was "
            f"({wrong}); drop other units (--units)"
        )


def _find_other_value(model: Any, again: Any) -> str | None:
    theirs = again.state_dict()
    for name, tensor in model.state_dict().items():
        if not torch.allclose(tensor.to(theirs[name].dtype), theirs[name], rtol=0, atol=0, equal_nan=True):
            return f"{name} has other values"
    return None


def _find_other_output(model: Any, again: Any) -> str | None:
    run = build_probe_run(model, batch=1, tokens=_choose_probe_length(model))
    try:
        ours, theirs = (get_first_output(run(each.eval())).float() for each in (model, again))
    except Exception as error:  # a family's own code, which may not run on other lengths than it was read with
        return f"it fails on {_choose_probe_length(model)} tokens: {(str(error).splitlines() or [''])[0][:120]}"
    largest = ours.abs().nan_to_num().max()
    off = float((ours - theirs).abs().nan_to_num().max() / largest.clamp(min=torch.finfo(torch.float32).tiny))
    return None if off <= _TOLERANCE.get(model.dtype, _HALF) else f"outputs are off by {off:.1e} of the largest"


def _choose_probe_length(model: Any) -> int:
    """Longer than small windows of attention, and within the positions that a model has, some of which are reserved."""
    positions = getattr(find_word_config(model), "max_position_embeddings", None)
    return min(_TOKENS, max(TOKENS, positions // 2)) if isinstance(positions, int) else _TOKENS
