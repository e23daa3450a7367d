"""Every package lists what it has for others: each name is there and explained, and what others use is in the list."""

import ast
import inspect
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from test_imports import files

PROGRAM = "latency_models.runner"  # a program that devices run, not a package that others import from
PACKAGES = sorted(name for name, file in files().items() if file.name == "__init__.py" and name != PROGRAM)


@cache
def used() -> dict[str, set[str]]:
    """Of every package the names that modules of other packages import from its modules."""
    found: dict[str, set[str]] = {}
    for importer, path in files().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.module not in files():
                continue
            if files()[node.module].name != "__init__.py":
                package = node.module.rpartition(".")[0]
                if package and package != importer.rpartition(".")[0] and not importer.startswith(f"{package}."):
                    found.setdefault(package, set()).update(alias.name for alias in node.names)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_the_names_of_a_package_are_there_and_explained(package: str) -> None:
    module = import_module(package)
    names = module.__all__
    assert names == sorted(
        set(names), key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    ) or names == sorted(set(names))
    for name in names:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert (thing.__doc__ or "").strip(), name


@pytest.mark.parametrize("package", PACKAGES)
def test_what_other_packages_use_is_public(package: str) -> None:
    modules = {name.rpartition(".")[2] for name in files() if name.startswith(f"{package}.")}
    private = sorted(name for name in used().get(package, set()) if name.startswith("_"))
    assert not private
    source = Path(files()[package]).read_text()
    if "lazy_exports" in source:
        assert used().get(package, set()) - modules <= set(import_module(package).__all__)
