"""How far a traversal is, in a folder: the states between two blocks, and what was seen so far.

A process that was killed leaves it as it was after the last block that all batches had left. Streams that are compared
with each other at the end are too large for the memory; they lie in a file beside it.
"""

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from pruning.analysis.observer import Observer

_FILE, _STREAMS = "traversal.pt", "streams.bin"


@dataclass(frozen=True)
class TraversalPosition:
    """Where work goes on: with which group of batches, at which block, with which states of each batch."""

    group: int = 0
    block: int = 0
    states: list[Tensor] = field(default_factory=list)
    arity: int = 0


class TraversalState:
    """The folder of one traversal, for one process at a time.

    Attributes:
        file: of streams, to be written at its end; what belongs to a block that was not finished is cut off.

    Example:
        >>> state = TraversalState(Path("analysis"), key="model and items")
        >>> reached = state.restore({observer.name: observer})
    """

    file: BinaryIO

    def __init__(self, folder: Path, key: str) -> None:
        """Open or make it.

        Args:
            key: names all that the outcome depends on; what another one left is deleted.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.key = folder, key
        streams = folder / _STREAMS
        streams.touch()
        self.file = streams.open("r+b", buffering=0)

    def restore(self, observers: Mapping[str, Observer]) -> TraversalPosition:
        """Where the last process came to; the beginning where none was, or its file is damaged."""
        try:
            found = torch.load(self.folder / _FILE, weights_only=True)  # tensors and plain values: no code is run
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
            found = {}
        if found.get("key") != self.key or os.fstat(self.file.fileno()).st_size < found["streams"]:
            self.file.truncate(0)
            return TraversalPosition()
        self.file.truncate(found["streams"])
        for name, observer in observers.items():
            observer.unpack(found["observers"][name])
        return TraversalPosition(found["group"], found["block"], found["states"], found["arity"])

    def keep(self, reached: TraversalPosition, observers: Mapping[str, Observer]) -> None:
        """Write down where work is to go on; the file is complete, or as it was before."""
        if not reached.states:  # between two groups no stream is waiting
            self.file.truncate(0)
        draft = self.folder / f"{_FILE}.draft"
        packed = {name: observer.pack() for name, observer in observers.items()}
        document = {
            "key": self.key, **vars(reached), "observers": packed,
            "streams": os.fstat(self.file.fileno()).st_size,
        }  # fmt: skip
        torch.save(document, draft)
        draft.replace(self.folder / _FILE)

    def close(self) -> None:
        """The work is done: nothing of it stays."""
        self.file.close()
        for name in (_FILE, _STREAMS):
            (self.folder / name).unlink(missing_ok=True)
