"""Whether this machine multiplies rightly in a format: without VNNI, ONNX Runtime's products of 8 bits saturate."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from latency_models.runtime_ort import open_session
from nas.profiling.format_product import write_product
from search_spaces.weight_formats import ALL_FORMATS

_ROWS, _INPUTS, _OUTPUTS = 4, 128, 8
_ALLOWED = 0.05  # of the result: rounding moves it by less, a sum that saturates loses half


@cache
def multiplies_rightly(name: str) -> bool:
    """Whether the largest inputs times the largest weights give what they have to."""
    matrix, given = torch.ones(_OUTPUTS, _INPUTS), np.ones((_ROWS, _INPUTS), np.float32)
    given[:, -1] = 0  # inputs from zero on use the whole range of 8 bits
    with tempfile.TemporaryDirectory(prefix="nas-") as folder:
        path = write_product(Path(folder) / "product.onnx", matrix, _ROWS, ALL_FORMATS[name])
        (found,) = open_session(path, 1).run(None, {"given": given})
    expected = given @ matrix.numpy().T
    return bool(np.abs(found - expected).max() <= _ALLOWED * np.abs(expected).max())
