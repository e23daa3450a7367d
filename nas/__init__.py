"""The service: quality, search, export, tracking and the command line."""

from typing import Any

__all__ = ["load", "register"]


def load(folder: str, **options: Any) -> Any:
    """The model in a result's `winner/` folder, or in any Hugging Face folder; see `pruning.checkpoint.load`."""
    from pruning.checkpoint import load as load_folder  # torch is heavy, and `nas --help` does not need it

    return load_folder(folder, **options)


def register(folder: str) -> str:
    """Let Transformers' Auto classes read the winners of this one's family; see `pruning.checkpoint.register`."""
    from pruning.checkpoint import register as register_folder

    return register_folder(folder)
