"""Public names of a package that are loaded when they are asked for: `import` stays quick, the list stays in sight."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def export_lazily(package: str, modules: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], list[str]]:
    """`__getattr__` and `__all__` of a package.

    Args:
        package: its name.
        modules: of its modules the public names.

    Example:
        >>> __getattr__, __all__ = export_lazily("pruning", {"surgery.prune": ["prune"]})
    """
    positions = {name: f"{package}.{module}" for module, names in modules.items() for name in names}

    def get_attribute(name: str) -> Any:
        if name not in positions:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(positions[name]), name)

    return get_attribute, sorted(positions)
