"""The grid of a sweep: one search for every model, target, budget and seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from nas.request.quantities import Budget
from nas.storage.cache_folder import format_for_file

CELLS = "cells"  # the folder of the searches' own result folders


@dataclass(frozen=True)
class Cell:
    """One search of a sweep.

    Attributes:
        name: of its result folder under `OUT/cells`; unique in the sweep.
        model: a reference model's name, a folder (absolute) or a hub id; `target` and `budget` as the person gave them.
    """

    name: str
    model: str
    target: str
    budget: str
    seed: int

    @property
    def params(self) -> dict[str, Any]:
        """What names it in the sweep's study."""
        return {"model": self.model, "target": self.target, "budget": self.budget, "seed": self.seed}

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"{shorten_model_name(self.model)} on {self.target}, {self.budget}, seed {self.seed}"


def list_cells(
    models: Sequence[str], targets: Sequence[str], budgets: Sequence[Budget], seeds: Sequence[int]
) -> tuple[Cell, ...]:
    """Every combination, numbered: models in the given order, of each all targets, of each all budgets, then seeds."""
    grid = list(product(models, targets, budgets, seeds))
    digits = len(str(len(grid)))
    return tuple(
        Cell(_name_cell(f"{number:0{digits}d}", cell, len(seeds) > 1), cell[0], cell[1], cell[2].text, cell[3])
        for number, cell in enumerate(grid, start=1)
    )


def list_pilots(cells: Sequence[Cell]) -> frozenset[Cell]:
    """The first cell of each model: it measures and judges what the others then find in the cache."""
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.model, cell)
    return frozenset(first.values())


def shorten_model_name(model: str) -> str:
    """The last part of a path or hub id: what a table has room for."""
    return Path(model).name


def _name_cell(number: str, cell: tuple[str, str, Budget, int], with_seed: bool) -> str:
    model, target, budget, seed = cell
    words = [number, shorten_model_name(model), target, budget.text, *([f"seed{seed}"] if with_seed else [])]
    return format_for_file("-".join(words))
