"""Trying a model on one input."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__, {"prediction": ["Prediction", "predict"], "tasks": ["Task", "choose_task"]}
)
