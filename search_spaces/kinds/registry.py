"""Registries that fill themselves: a new kind is a new file, and no list names it."""

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def discover(paths: Iterable[str], package: str, attribute: str) -> dict[str, Any]:
    """The attribute of every module of a package that has it, by the module's name with hyphens, in that order."""
    names = sorted(module.name for module in iter_modules(paths))
    modules = {name.replace("_", "-"): import_module(f"{package}.{name}") for name in names}
    return {name: getattr(module, attribute) for name, module in modules.items() if hasattr(module, attribute)}
