"""Putting modules in place of others: parts of a block that are gone, or narrower ones."""

from collections.abc import Mapping

from torch import nn


def replace_modules(module: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Put modules in the places of others, in place.

    Args:
        module: that holds them.
        replacements: by dotted path within it.
    """
    for path, replacement in replacements.items():
        module.set_submodule(path, replacement)
