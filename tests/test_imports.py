"""Which module may import which: no circles, and no import from a package into one that stands above it.

Imports inside functions and under `TYPE_CHECKING` count as every other.
"""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up, as in docs/design.md. Packages of one floor do not import each other.
PROGRAM = (("search_spaces",), ("latency_models", "pruning"), ("nas",))
NAS = (
    ("data", "progress", "storage"),
    ("request",),
    ("figures", "parent", "quality", "tracking"),
    ("execution", "export", "mlflow_model", "prediction", "routing", "search"),
    ("families", "formats", "profiling", "results", "testing"),
    ("api", "certification", "report", "tokens"),
    ("healing",),
    ("pipeline",),
    ("sweep",),
    ("cli",),
)
FRAMEWORKS = {"torch", "transformers", "safetensors", "mlflow", "optuna"}


@cache
def files() -> dict[str, Path]:
    """The file of every module; that of a package is its `__init__.py`."""
    found = {}
    for package in (name for floor in PROGRAM for name in floor):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str) -> Iterator[str]:
    """The full names that a module imports: of modules, or of what is in them."""
    path = files()[module]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            source = ".".join([*home, *filter(None, [node.module])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


@cache
def graph() -> dict[str, set[str]]:
    """Which modules of this repository each of them imports."""
    edges = {}
    for module in files():
        names = (name if name in files() else name.rpartition(".")[0] for name in imported(module))
        edges[module] = {name for name in names if name in files()} - {module}
    return edges


def upward(floors: tuple[tuple[str, ...], ...], package_of: Callable[[str], str]) -> list[str]:
    """The imports between packages that do not go down a floor; what has no floor stands below all."""
    floor = {package: number for number, packages in enumerate(floors) for package in packages}
    return [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in sorted(others)
        if package_of(module) != package_of(other)
        and floor.get(package_of(module), -1) <= floor.get(package_of(other), -1)
    ]


def nas_package(module: str) -> str:
    """`search` for `nas.search.problem`; nothing for what is not in `nas`."""
    return module.split(".")[1] if module.startswith("nas.") else ""


def test_modules_import_each_other_in_no_circle() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_imports_between_the_packages_of_the_program_go_down() -> None:
    assert not upward(PROGRAM, lambda module: module.split(".")[0])


def test_imports_between_the_packages_of_nas_go_down() -> None:
    assert not upward(NAS, nas_package)


def test_every_package_of_nas_has_a_floor() -> None:
    assert sorted(package for floor in NAS for package in floor) == sorted(set(map(nas_package, files())) - {""})


def test_the_design_lists_the_floors() -> None:
    rows = [line for line in (ROOT / "docs" / "design.md").read_text().splitlines() if line.startswith("| floor ")]
    listed = [{word.strip("` ") for word in row.split("|")[2].split(",")} for row in rows]
    assert listed == [set(floor) for floor in NAS]


@pytest.mark.parametrize("package", ["search_spaces", "latency_models"])
def test_data_and_latency_models_know_no_framework(package: str) -> None:
    modules = [module for module in files() if module.split(".")[0] == package]
    assert not [(module, name) for module in modules for name in imported(module) if name.split(".")[0] in FRAMEWORKS]
