"""What a parent of a large vocabulary predicts, kept on disk: every later search of it begins without running it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nas.data.dataset import Split
from nas.quality.distribution import StoredDistribution


@dataclass(frozen=True)
class ParentOutputs:
    """A folder with the distributions of one parent, a file for each split.

    A file holds the 512 likeliest tokens of every position, 4 KiB each: 2 MiB for a window of 512.

    Attributes:
        folder: of the parent; None keeps nothing.

    Example:
        >>> stored = ParentOutputs(folder).get(split, compute)
    """

    folder: Path | None

    def get(self, split: Split, compute: Callable[[], list[StoredDistribution]]) -> list[StoredDistribution]:
        """The distributions of a split's items, read, or computed and kept where they are of the likeliest only.

        What cannot be read or written is computed again.
        """
        if self.folder is None:
            return compute()
        device = next(iter(split.inputs.values())).device
        file = self.folder / f"outputs-{split.digest}-{device.type}.safetensors"
        try:
            return _take_apart(load_file(file, str(device)))
        except (OSError, SafetensorError, KeyError):
            pass
        computed = compute()
        tensors = _put_together(computed)
        if tensors:
            _write(file, tensors)
        return computed


def _put_together(items: list[StoredDistribution]) -> dict[str, Tensor]:
    """(items, rows, k) and (items, rows); nothing of items that hold all outcomes."""
    indices = [item.indices.int() for item in items if item.indices is not None]
    rest = [item.log_rest for item in items if item.log_rest is not None]
    if not len(indices) == len(rest) == len(items):
        return {}
    log_p = torch.stack([item.log_p for item in items])
    return {"log_p": log_p.cpu(), "indices": torch.stack(indices).cpu(), "log_rest": torch.stack(rest).cpu()}


def _take_apart(tensors: dict[str, Tensor]) -> list[StoredDistribution]:
    rows = zip(tensors["log_p"], tensors["indices"].long(), tensors["log_rest"], strict=True)
    return [StoredDistribution(*each) for each in rows]


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    """Complete or not at all; a full disk costs nothing but the file."""
    draft = file.with_name(f"{file.name}.{os.getpid()}.draft")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, draft)
        draft.replace(file)
    except (OSError, SafetensorError):
        draft.unlink(missing_ok=True)
