"""Putting modules in place of others: parts of a block that are gone, or narrower ones."""

from collections.abc import Mapping

from torch import nn

_CONFIG = "config"


def replace_modules(module: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Put modules in the places of others, in place; they follow the config that was followed there.

    A config says how attentions and experts are computed, and may be told otherwise later.

    Args:
        module: that holds them.
        replacements: by dotted path within it.
    """
    for path, replacement in replacements.items():
        _hand_over_config(module.get_submodule(path), replacement)
        module.set_submodule(path, replacement)


def _hand_over_config(old: nn.Module, new: nn.Module) -> None:
    """Give the parts of a module the configs of the parts in whose places they come."""
    configs = {path: vars(part)[_CONFIG] for path, part in old.named_modules() if _CONFIG in vars(part)}
    for path, part in new.named_modules():
        if path in configs and _CONFIG in vars(part):
            vars(part)[_CONFIG] = configs[path]
