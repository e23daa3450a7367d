"""The precision in which a parent's weights are stored: what is cut from it is stored in the same one."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NAME = "stored_precision"  # on a model, which keeps it when it is copied


@dataclass(frozen=True)
class StoredPrecision:
    """The floating-point dtypes in a parent's files, that of the most values first."""

    dtypes: tuple[torch.dtype, ...]


def remember_precision(model: Any, dtypes: tuple[torch.dtype, ...]) -> None:
    """Keep the dtypes of a parent's files on the model, which may compute in a wider one."""
    setattr(model, _NAME, StoredPrecision(dtypes))


def convert_to_stored(model: Any, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], torch.dtype]:
    """The weights as they are to be written, and the dtype that a config names for them.

    Each is written in the first of its parent's dtypes that holds all its values, so nothing is lost: what was
    widened to be computed with goes back, what was trained since or is stored wider than the rest stays as it is.
    """
    stored = getattr(model, _NAME, StoredPrecision(()))
    written = {name: _narrow(tensor, stored.dtypes) for name, tensor in weights.items()}
    all_back = all(tensor.dtype in stored.dtypes for tensor in written.values() if tensor.is_floating_point())
    return written, stored.dtypes[0] if stored.dtypes and all_back else model.dtype


def _narrow(tensor: Tensor, dtypes: tuple[torch.dtype, ...]) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    candidates = (tensor.to(dtype) for dtype in dtypes)
    return next((candidate for candidate in candidates if torch.equal(candidate.to(tensor.dtype), tensor)), tensor)


def round_as_stored(model: Any, tensor: Tensor, like: Tensor) -> Tensor:
    """New values for a weight of a parent, rounded to the dtype in which the old ones, `like`, are stored."""
    stored = getattr(model, _NAME, StoredPrecision(()))
    return tensor.to(_narrow(like, stored.dtypes).dtype).to(like.dtype)
