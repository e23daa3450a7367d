"""Where the states of several finalists are kept, each in a file of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.healing.state import TrainingState, load_state
from search_spaces.architecture import Architecture


@dataclass(frozen=True)
class StateFiles:
    """The states of finalists, by their number.

    Attributes:
        folder: of the files.
        identity: of all that training depends on besides the finalist, by which files are known again.
        architectures: of the finalists.
    """

    folder: Path
    identity: dict[str, Any]
    architectures: Sequence[Architecture]

    def get_path(self, member: int) -> Path:
        """The file of a finalist."""
        return self.folder / f"{self.architectures[member].digest}.pt"

    def build_identity(self, member: int) -> dict[str, Any]:
        """What a finalist's file is known by."""
        return {**self.identity, "architecture": self.architectures[member].digest}

    def restore(self, member: int) -> TrainingState:
        """A finalist's state as it was kept last; one that begins where there is none, or one of other training.

        Raises:
            UsageError: the file is damaged.
        """
        known = load_state(self.get_path(member))
        if known is not None and known[0] == self.build_identity(member):
            return known[1]
        self.get_path(member).unlink(missing_ok=True)
        return TrainingState(1)

    def keep(self, member: int, state: TrainingState) -> None:
        """Write a finalist's state."""
        state.save(self.get_path(member), self.build_identity(member))
