"""Architectures of a space as rows of truth values, one column per unit: what is gone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture
from search_spaces.unit import Kind, Unit, implies

Rows = NDArray[np.bool_]


@dataclass(frozen=True)
class Incidence:
    """Reads and writes rows. A row holds with every token unit those that it implies."""

    units: tuple[Unit, ...]

    @cached_property
    def tokens(self) -> Rows:
        """Which columns are token units, shape (units,)."""
        return np.array([unit.kind is Kind.TOKENS for unit in self.units], dtype=bool)

    @cached_property
    def closure(self) -> Rows:
        """Row u: the unit u and what goes with it, shape (units, units)."""
        return np.array([[one == other or implies(one, other) for other in self.units] for one in self.units])

    @cached_property
    def _places(self) -> dict[Unit, int]:
        return {unit: place for place, unit in enumerate(self.units)}

    @cached_property
    def _blocks(self) -> set[int]:
        return {unit.layer for unit in self.units if unit.kind is Kind.BLOCK}

    @cached_property
    def _levels(self) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
        """Block and ratio of every column; no step reaches those of other units."""
        layers = [unit.layer if unit.kind is Kind.TOKENS else -1 for unit in self.units]
        return np.array(layers), np.array([unit.permille for unit in self.units])

    def rows(self, architectures: Sequence[Architecture]) -> Rows:
        """(n, units); what is gone with a block that is a unit itself is not counted beside it."""
        found = np.zeros((len(architectures), len(self.units)), dtype=bool)
        for row, architecture in zip(found, architectures, strict=True):
            self._fill(row, architecture)
        return found

    def _fill(self, row: Rows, architecture: Architecture) -> None:
        layers, permille = self._levels
        for unit in architecture.dropped:
            if unit.kind is Kind.TOKENS:
                row |= (layers >= unit.layer) & (permille >= unit.permille)
            elif unit in self._places:
                row[self._places[unit]] = True
            elif unit.kind is Kind.BLOCK and unit.layer not in self._blocks:
                for kind in (Kind.ATTENTION, Kind.MLP):
                    place = self._places.get(Unit(unit.layer, kind))
                    if place is not None:
                        row[place] = True

    def canonical(self, rows: Rows, merges_blocks: bool) -> Rows:
        """(n, units): each row as it would be read from the architecture that drops it, so that equal ones are equal.

        Args:
            merges_blocks: as in the space; a block that loses both its parts is then a removed one.
        """
        found = rows.astype(np.float32) @ self.closure.astype(np.float32) > 0 if self.tokens.any() else rows.copy()
        for block, parts in self._wholes:
            if merges_blocks and len(parts) == 2:
                found[:, block] |= found[:, parts].all(1)
            found[:, parts] &= ~found[:, [block]]
        return found

    @cached_property
    def _wholes(self) -> list[tuple[int, list[int]]]:
        """The column of every block that is a unit, and those of its parts that are units too."""
        parts = {layer: [Unit(layer, kind) for kind in (Kind.ATTENTION, Kind.MLP)] for layer in sorted(self._blocks)}
        return [
            (self._places[Unit(layer, Kind.BLOCK)], [self._places[unit] for unit in units if unit in self._places])
            for layer, units in parts.items()
        ]

    def units_of(self, rows: Rows) -> list[set[Unit]]:
        """What to drop for each row; token units that others imply are left out, which is quicker to read."""
        strictly = (self.closure & ~np.eye(len(self.units), dtype=bool)).astype(np.float32)
        telling = rows & ~(rows.astype(np.float32) @ strictly > 0)
        return [{self.units[place] for place in np.flatnonzero(row)} for row in telling]
