"""Scales of the inputs that a runtime rounds with one scale in all calls: chosen in one pass over calibration items."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning.anatomy.anatomy import Anatomy
from pruning.kinds.quantised_part import AXIS, QuantisedPart
from pruning.surgery.input_scale import choose_input_scale, get_input_scale, keep_input_scale
from search_spaces.weight_formats import ALL_FORMATS, Inputs, WeightFormat


@torch.no_grad()
def calibrate_inputs(model: Any, anatomy: Anatomy, inputs: Mapping[str, Tensor]) -> None:
    """Choose the scale of every matrix of a parent that may be given rounded inputs, and keep it on its module.

    What is pruned from the parent from then on has these scales; where candidates are compensated, those of their own
    inputs take their places.

    Args:
        model: the parent; its modules get the scales, and nothing else changes.
        inputs: keyword inputs of the model, a few calibration items.

    Example:
        >>> calibrate_inputs(model, read_anatomy(model), {"input_ids": torch.arange(64)[None]})
    """

    found = _find_modules(model, anatomy)

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        for format in found[module]:
            keep_input_scale(module, format, choose_input_scale(args[0], format))

    handles = [module.register_forward_pre_hook(keep) for module in found]
    try:
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()


def copy_input_scales(model: Any, other: Any) -> None:
    """Give the modules of another copy of a parent the scales of this one's."""
    others = dict(other.named_modules())
    for path, module in model.named_modules():
        for format in ALL_FORMATS.values():
            if scale := get_input_scale(module, format):
                keep_input_scale(others[path], format, scale)


def _find_modules(model: Any, anatomy: Anatomy) -> dict[nn.Module, list[WeightFormat]]:
    """The matrices that may be given inputs with a scale of all calls, with the formats."""
    found: dict[nn.Module, list[WeightFormat]] = {}
    for choice in sorted(anatomy.choices):
        if choice.level.get_value(AXIS) is None:
            continue
        surgery = QuantisedPart(choice.kind)
        format = surgery.get_format(choice.level)
        if format.inputs is Inputs.FIXED:
            holder, place = anatomy.get_place(model, choice.layer)
            for path in surgery.find_matrices(holder, place):
                found.setdefault(holder.get_submodule(path), []).append(format)
    return found
