"""Inputs of a candidate, made of the parent's: its cache may have fewer heads, and hold fewer tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Axes = Sequence[Any]  # of each axis its size, or its name where it may have any
_SINKS = re.compile(r"sinks_held_([0-9]+)")  # a window of so many tokens
_PAST = "past"  # begins the names of what a cache holds
_PLACES = 4  # of first tokens, before those in the window


def fit_inputs(inputs: Mapping[str, np.ndarray], shapes: Mapping[str, Axes]) -> dict[str, np.ndarray]:
    """Of the arrays those that a file asks for, its past ones with the sizes that it declares.

    Others are left as they are: a runtime is to refuse them where they do not fit.

    Args:
        inputs: the parent's, by name.
        shapes: of the file's inputs.
    """
    asked = {name: axes for name, axes in shapes.items() if name in inputs}
    return {name: _fit(inputs[name], axes) if name.startswith(_PAST) else inputs[name] for name, axes in asked.items()}


def fit_shape(shape: Sequence[int], axes: Axes) -> tuple[int, ...]:
    """The shape that an array of this shape is given for these axes."""
    return tuple(_fit_size(size, axes[at]) for at, size in enumerate(shape))


def _fit(array: np.ndarray, axes: Axes) -> np.ndarray:
    """The beginning of every axis; zeros behind the end of one that is too short."""
    wanted = fit_shape(array.shape, axes)
    if wanted == array.shape:
        return array
    fitted = np.zeros(wanted, array.dtype)
    common = tuple(slice(0, min(size, array.shape[at])) for at, size in enumerate(wanted))
    fitted[common] = array[common]
    return fitted


def _fit_size(size: int, axis: Any) -> int:
    """A declared size; of a window's axis as many as it holds of so many tokens; else as it is."""
    if isinstance(axis, int):
        return axis if axis > 0 else size
    window = _SINKS.fullmatch(axis or "")
    return size if window is None else _PLACES + min(size, int(window.group(1)) - 1)
