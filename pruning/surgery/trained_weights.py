"""A mark on pruned models that were trained: their weights are neither their parent's nor made of them."""

from typing import Any

_NAME = "nas_trained"  # on a model, which keeps it when it is copied


def mark_trained(model: Any) -> None:
    """Note that a model was trained, so that no file is made for it by editing its parent's."""
    setattr(model, _NAME, True)


def was_trained(model: Any) -> bool:
    """Whether a model was trained since it was pruned."""
    return bool(getattr(model, _NAME, False))
