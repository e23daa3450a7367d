"""How fast this machine multiplies with weights of each format: single products, measured side by side.

Which format is fast depends on the processor and on how many rows are multiplied: with one row reading the weights
takes the time, with many the arithmetic does. Nothing of that is in a data sheet.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latency_models.runtime_ort import count_default_threads, open_session, read_environment
from nas.profiling.format_product import write_product
from nas.storage.cache_folder import get_cache_folder
from search_spaces.weight_formats import PROCESSOR, list_formats

FILE = "formats.json"
ROUNDS = 40
_FORMATS = list_formats(PROCESSOR)
_MINIMUM_SECONDS = 2e-3  # that one reading takes; short products are repeated within it


@dataclass(frozen=True)
class Product:
    """Inputs (rows, inputs) times weights (inputs, outputs)."""

    rows: int
    inputs: int
    outputs: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.inputs}x{self.outputs}"


Speeds = dict[Product, dict[str, float]]  # milliseconds by format; "" is the product in float32


def load_speeds(products: Iterable[Product]) -> Speeds:
    """The milliseconds of products in every format on this machine, measured where they are not known yet.

    They are kept in the cache folder, by processor, runtime and number of threads.
    """
    environment = json.dumps(read_environment(count_default_threads()), sort_keys=True)
    path = get_cache_folder() / FILE
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    own, wanted = kept.setdefault(environment, {}), sorted(set(products), key=str)
    new = [product for product in wanted if not own.get(str(product), {}).keys() >= _FORMATS.keys()]
    own |= {str(product): measure_product(product) for product in new}
    if new:
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(kept, indent=1) + "\n")
        draft.replace(path)
    return {product: own[str(product)] for product in wanted}


def measure_product(product: Product) -> dict[str, float]:
    """Milliseconds of a product by format, the least of interleaved rounds; `""` is float32.

    Others on the machine only make a reading longer, and what was read is kept: a median of a busy minute would decide
    for good which formats are searched.
    """
    given = np.random.default_rng(0).standard_normal((product.rows, product.inputs)).astype(np.float32)
    readings: dict[str, list[float]] = {name: [] for name in ("", *_FORMATS)}
    with tempfile.TemporaryDirectory(prefix="nas-") as folder:
        sessions = {name: _open(product, name, Path(folder) / f"{name}.onnx") for name in readings}
        repeats = {name: _count_repeats(session, given) for name, session in sessions.items()}
        for _ in range(ROUNDS):
            for name, session in sessions.items():
                readings[name].append(_time(session, given, repeats[name]))
    return {name: min(values) for name, values in readings.items()}


def _open(product: Product, name: str, path: Path) -> Any:
    """A session of one product, written to `path` first."""
    matrix = torch.randn(product.outputs, product.inputs, generator=torch.Generator().manual_seed(0))
    return open_session(write_product(path, matrix, product.rows, _FORMATS.get(name)), count_default_threads())


def _count_repeats(session: Any, given: np.ndarray) -> int:
    once = min(_time(session, given, 1) for _ in range(3)) / 1e3
    return max(1, round(_MINIMUM_SECONDS / max(once, 1e-7)))


def _time(session: Any, given: np.ndarray, repeats: int) -> float:
    """Milliseconds of one run, the mean of `repeats`."""
    began = time.perf_counter()
    for _ in range(repeats):
        session.run(None, {"given": given})
    return 1e3 * (time.perf_counter() - began) / repeats
