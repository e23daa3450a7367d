"""The one encoding between architectures and numbers: rows with a column for every choice of a space."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture
from search_spaces.kinds import PARTS
from search_spaces.level import DROP
from search_spaces.rules import SWALLOWS, implies, is_below
from search_spaces.unit import Choice, Unit, is_cumulative, is_structural

Rows = NDArray[np.bool_]


@dataclass(frozen=True)
class Encoding:
    """Reads and writes rows of truth values: True where a choice is made.

    Of a unit at most one column is True (one-hot, the parent's level left out), but a row holds with a cumulative
    choice all that it implies.

    Example:
        >>> encoding = Encoding((Unit(0, Kind.MLP).dropped, Unit(1, Kind.MLP).dropped))
        >>> encoding.encode_rows([Architecture.parent(2).drop(Unit(1, Kind.MLP))]).tolist()
        [[False, True]]
    """

    columns: tuple[Choice, ...]

    @cached_property
    def cumulative(self) -> Rows:
        """Which columns imply others, shape (columns,)."""
        return np.array([is_cumulative(choice) for choice in self.columns], dtype=bool)

    @cached_property
    def closure(self) -> Rows:
        """Row c: the choice c and what goes with it, shape (columns, columns)."""
        return np.array([[one == other or implies(one, other) for other in self.columns] for one in self.columns])

    @cached_property
    def alternatives(self) -> Rows:
        """Row c: the other levels of the unit of column c, shape (columns, columns); none of cumulative ones."""
        return np.array(
            [
                [one != other and one.unit == other.unit and not is_cumulative(one) for other in self.columns]
                for one in self.columns
            ]
        )

    @cached_property
    def has_alternatives(self) -> bool:
        """Whether some unit has more than one level beside its parent's, one of which excludes the others."""
        return bool(self.alternatives.any())

    @property
    def level_count(self) -> int:
        """How many levels the cumulative columns of one block have."""
        return len({choice.level for choice in self.columns if is_cumulative(choice)})

    def encode_rows(self, architectures: Sequence[Architecture]) -> Rows:
        """(n, columns); what is gone with a block that has a column itself is not counted beside it."""
        rows = np.zeros((len(architectures), len(self.columns)), dtype=bool)
        for row, architecture in zip(rows, architectures, strict=True):
            self._fill(row, architecture.choices)
        return rows

    def _fill(self, row: Rows, choices: Iterable[Choice]) -> None:
        for choice in choices:
            position = self._positions.get(choice)
            if position is not None:
                row |= self.closure[position]
            elif is_cumulative(choice):
                row |= [implies(choice, other) for other in self.columns]
            elif choice.unit.kind in SWALLOWS:
                parts = (Unit(choice.layer, kind).dropped for kind in SWALLOWS[choice.unit.kind])
                row[[self._positions[part] for part in parts if part in self._positions]] = True

    def make_canonical(self, rows: Rows, merges_blocks: bool, parts: int = len(PARTS)) -> Rows:
        """(n, columns): each row as it would be read from its architecture, so that equal ones are equal.

        Args:
            merges_blocks: as in the space; a block that loses all its parts is then a removed one.
            parts: how many a block has.
        """
        closed = self.cumulative.any()
        canonical = rows.astype(np.float32) @ self.closure.astype(np.float32) > 0 if closed else rows.copy()
        if self.has_alternatives:
            canonical &= ~(canonical.astype(np.float32) @ self._hides.astype(np.float32) > 0)
        for block, dropped, levels in self._wholes:
            if merges_blocks and len(dropped) == parts:
                canonical[:, block] |= canonical[:, dropped].all(1)
            canonical[:, levels] &= ~canonical[:, [block]]
        return canonical

    def decode(self, rows: Rows) -> list[set[Choice]]:
        """What each row chooses; choices that others imply are left out, which is quicker to read."""
        strictly = (self.closure & ~np.eye(len(self.columns), dtype=bool)).astype(np.float32)
        telling = rows & ~(rows.astype(np.float32) @ strictly > 0)
        return [{self.columns[position] for position in np.flatnonzero(row)} for row in telling]

    @cached_property
    def _positions(self) -> dict[Choice, int]:
        return {choice: position for position, choice in enumerate(self.columns)}

    @cached_property
    def _hides(self) -> Rows:
        """Row c: the milder levels of the unit of column c."""
        below = np.array([[is_below(one, other) for other in self.columns] for one in self.columns])
        return np.asarray(below & self.alternatives)

    @cached_property
    def _wholes(self) -> list[tuple[int, list[int], list[int]]]:
        """Of every block that has a column: that, those of its parts when dropped, and those of all their levels."""
        wholes = []
        for position, whole in sorted(enumerate(self.columns), key=lambda pair: pair[1].layer):
            kinds = SWALLOWS.get(whole.unit.kind, ())
            own = [n for n, c in enumerate(self.columns) if c.layer == whole.layer and c.unit.kind in kinds]
            if kinds:
                wholes.append((position, [n for n in own if self.columns[n].level == DROP], own))
        return wholes


def find_structural_columns(encoding: Encoding) -> Rows:
    """Which columns change parts of the parent, shape (columns,)."""
    return np.array([is_structural(choice) for choice in encoding.columns], dtype=bool)
