"""Whether what a model gives are numbers: of NaN every comparison is false, and every choice would be a guess."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from search_spaces.errors import ModelError

_TOKENS = 3  # axes of outputs that have one row per token


def check_numbers(model: Any, output: Mapping[str, Any]) -> None:
    """Refuse a model whose outputs are NaN: of states of tokens the first one's are looked at, which is no padding.

    Raises:
        ModelError: they are.
    """
    for name, value in output.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        looked_at = value[:, 0] if value.ndim >= _TOKENS else value
        if bool(looked_at.isnan().any()):
            raise ModelError(
                f"{name} of the {type(model).__name__} are no numbers (NaN): its weights are damaged, or not its own; "
                "give an undamaged checkpoint"
            )
