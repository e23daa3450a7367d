"""How far a candidate is from its parent."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas.quality.quality import Quality

if TYPE_CHECKING:
    from nas.quality.evaluator import Evaluator, choose_evaluator

__all__ = ["Evaluator", "Quality", "choose_evaluator"]


def __getattr__(name: str) -> Any:
    """Evaluators when they are asked for: a result is read without torch."""
    if name in __all__:
        return getattr(import_module("nas.quality.evaluator"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
