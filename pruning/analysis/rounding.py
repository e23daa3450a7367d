"""What rounding to fewer bits loses of what each part multiplies: seen in one pass over calibration items.

A few inputs that are hundreds of times as large as the rest ("massive activations", Sun et al. 2024) take the whole
scale of the numbers that share it, and the rest is rounded to nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.anatomy.anatomy import Anatomy
from pruning.kinds.quantised_part import QuantisedPart
from pruning.surgery.quantised_linear import QuantisedLinear
from search_spaces.unit import Choice
from search_spaces.weight_formats import WeightFormat


@dataclass(frozen=True)
class RoundingLoss:
    """Of the matrix of a part that loses most.

    Attributes:
        error: root mean square of what its products are off, as a share of that of the products.
        peak: its largest input, in units of the inputs' root mean square.

    Example:
        >>> losses = measure_rounding(model, anatomy, anatomy.choices, [inputs])
        >>> broken = [choice for choice, loss in losses.items() if loss.error > 0.3]
    """

    error: float
    peak: float


@torch.no_grad()
def measure_rounding(
    model: Any, anatomy: Anatomy, choices: Iterable[Choice], inputs: Mapping[str, Tensor]
) -> dict[Choice, RoundingLoss]:
    """What each choice of a format loses of the parent's products.

    Args:
        choices: of formats only.
        inputs: keyword inputs of the model, as many items as are multiplied in one call.
    """
    watched: dict[nn.Module, list[tuple[Choice, WeightFormat]]] = {}
    for choice in choices:
        holder, place = anatomy.get_place(model, choice.layer)
        surgery = QuantisedPart(choice.kind)
        for path in surgery.find_matrices(holder, place):
            watched.setdefault(holder.get_submodule(path), []).append((choice, surgery.get_format(choice.level)))
    losses: dict[Choice, RoundingLoss] = {}

    def compare(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        for choice, format in watched[module]:
            found = _compare(module, args[0], output, format)
            worst = losses.get(choice)
            losses[choice] = found if worst is None or found.error > worst.error else worst

    handles = [module.register_forward_hook(compare) for module in watched]
    try:
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return losses


def _compare(module: nn.Module, given: Tensor, output: Tensor, format: WeightFormat) -> RoundingLoss:
    off = QuantisedLinear.of(module, format)(given) - output
    size, usual = float(output.float().norm()), float(given.float().square().mean().sqrt())
    error = float(off.float().norm()) / size if size else 0.0
    return RoundingLoss(error, float(given.abs().amax()) / usual if usual else 0.0)
