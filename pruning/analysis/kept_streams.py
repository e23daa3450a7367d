"""The residual streams of batches between all blocks, until they are compared with each other: in memory, or a file."""

import os
from typing import BinaryIO

import torch
from torch import Tensor


class KeptStreams:
    """Streams by batch, in the order of the blocks.

    Attributes:
        count: of a batch.
        file: opened for reading and writing without a buffer; None keeps them in memory.
        places: of batches whose streams are kept so far: how many tokens each has, then where each begins.

    Example:
        >>> kept = KeptStreams(count=2)
        >>> kept.put(0, torch.ones(3, 4)), kept.put(0, torch.zeros(3, 4))
        (None, None)
        >>> kept.take(0, width=4).shape
        torch.Size([2, 3, 4])
    """

    def __init__(self, count: int, file: BinaryIO | None = None) -> None:
        """Nothing is kept yet."""
        self.count, self.file = count, file
        self.places: dict[int, list[int]] = {}
        self._tables: dict[int, Tensor] = {}

    def put(self, batch: int, rows: Tensor) -> None:
        """Keep the next stream of a batch, (tokens, hidden) float32."""
        places = self.places.setdefault(batch, [len(rows)])
        if self.file is None:
            if batch not in self._tables:
                self._tables[batch] = rows.new_empty(self.count, *rows.shape)
            self._tables[batch][len(places) - 1] = rows
            places.append(len(places) - 1)
        else:
            places.append(self.file.seek(0, os.SEEK_END))
            left = _view(rows.contiguous())
            while left:
                left = left[self.file.write(left) :]

    def take(self, batch: int, width: int) -> Tensor:
        """(count, tokens, hidden) of a batch, which is forgotten here.

        Raises:
            OSError: the file is shorter than what was written.
        """
        tokens, *places = self.places.pop(batch)
        if self.file is None:
            return self._tables.pop(batch)
        table = torch.empty(self.count, tokens, width)
        for rows, place in zip(table, places, strict=True):
            self.file.seek(place)
            left = _view(rows)
            while left:
                read = self.file.readinto(left)  # type: ignore[attr-defined]
                if not read:
                    raise OSError(f"{self.file.name} ends before the streams that were written to it")
                left = left[read:]
        return table


def _view(rows: Tensor) -> memoryview:
    return memoryview(rows.numpy().data).cast("B")
