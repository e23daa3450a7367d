"""In which order cells are handed out: of each model one first, the others when it has ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nas.sweep.cell import Cell, list_pilots


@dataclass(frozen=True)
class PilotsFirst:
    """The queue of a sweep.

    The cells of a model share its export, its profile and its score library. Were they to begin together, each would
    make them; so one pilot goes ahead, and what it has found the others read.
    """

    cells: tuple[Cell, ...]

    def take_next(self, given: Sequence[dict[str, Any]], ended: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """The params of the next cell; None while all that are left wait for their pilots."""
        pilots = list_pilots(self.cells)
        piloted = {pilot.model for pilot in pilots if pilot.params in ended}
        free = [cell for cell in self.cells if cell.params not in given and cell.params not in ended]
        ready = [cell for cell in free if cell in pilots] + [cell for cell in free if cell.model in piloted]
        return ready[0].params if ready else None

    def complete(self, ended: Sequence[dict[str, Any]]) -> bool:
        """Whether every cell has ended."""
        return all(cell.params in ended for cell in self.cells)
