"""The one scale that rounded inputs of a linear module have in all calls, chosen on calibration items."""

from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.weight_formats import WeightFormat

_NAME = "nas_input_scales"  # on a parent's module: by format
_BINS = 2048  # of the histogram of magnitudes


def get_input_scale(module: nn.Module, format: WeightFormat) -> float:
    """The scale that a module's inputs have in a format; 0 where none was chosen."""
    scale: Any = getattr(module, "input_scale", None)
    return float(getattr(module, _NAME, {}).get(format, 0.0) if scale is None else scale)


def keep_input_scale(module: nn.Module, format: WeightFormat, scale: float) -> None:
    """Keep the scale of its inputs on a module whose inputs are not rounded: those made from it have it."""
    setattr(module, _NAME, {**getattr(module, _NAME, {}), format: scale})


@torch.no_grad()
def choose_input_scale(given: Tensor, format: WeightFormat) -> float:
    """The scale with which rounding inputs loses least of their squares; few inputs that are much larger are cut.

    Within the range an input is off by a uniform error of one step, of which the mean square is step² / 12. Floating
    numbers are the closer the smaller they are, so of these nothing is cut. The scale is rounded to the digits of
    bfloat16, so files in half precision have the very same one.
    """
    sizes = given.detach().float().abs().flatten()
    peak = float(sizes.amax())
    if not peak:
        return 1.0
    if format.floating:
        return float(torch.tensor(peak / format.largest).bfloat16())
    counts = torch.histc(sizes, _BINS, 0.0, peak).double()
    edges = torch.arange(1, _BINS + 1, dtype=torch.float64, device=counts.device) * (peak / _BINS)
    middles = edges - peak / (2 * _BINS)
    beyond = [_sum_beyond(counts * middles**power) for power in (0, 1, 2)]
    cut = beyond[2] - 2 * edges * beyond[1] + edges.square() * beyond[0]
    inside = counts.cumsum(0) * (edges / format.largest).square() / 12
    best = edges[(cut + inside).argmin()] / format.largest
    return float(best.float().bfloat16())


def _sum_beyond(values: Tensor) -> Tensor:
    """Of every bin the sum over all later ones."""
    return values.sum() - values.cumsum(0)
