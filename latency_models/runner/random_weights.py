"""The weights that a kit does not carry: random values, made on the device from a seed.

Latency does not depend on what the weights are, and a kit without them is small and tells nobody a model.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from .failure import MeasuringFailed
from .plan import PLAN

KEY = "weights"  # of plan.json: file, dtype, count, seed
_BLOCK = 1 << 24  # values that are drawn; a larger file repeats them
_SCALE = 0.02  # as transformers are initialised: activations neither overflow nor vanish


def fill(folder: Path) -> None:
    """Make the file of weights that the plan of a kit describes, unless it is there.

    Raises:
        MeasuringFailed: it cannot be written.
    """
    entry = json.loads((folder / PLAN).read_text()).get(KEY)
    if entry is None:
        return
    path, count, dtype = folder / entry["file"], int(entry["count"]), np.dtype(entry["dtype"])
    if path.is_file() and path.stat().st_size == count * dtype.itemsize:
        return
    generator = np.random.default_rng(int(entry["seed"]))
    block = (_SCALE * generator.standard_normal(min(count, _BLOCK), dtype=np.float32)).astype(dtype)
    draft = path.with_name(path.name + ".draft")
    try:
        with draft.open("wb") as file:
            for first in range(0, count, _BLOCK):
                file.write(block[: count - first].tobytes())
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise MeasuringFailed(
            f"{path} of {count * dtype.itemsize / 1e6:.0f} MB cannot be written ({error.strerror}); make room for it"
        ) from None
