"""Runtimes: what turns a file into a callable, found by what the device has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from .failure import MeasuringFailed

ONNX_RUNTIME = "onnxruntime"
# Module of each by its name, in the order in which they are tried. It has `open_runtime(precision, threads, provider,
# cache)`, which gives a `Runtime` or raises MeasuringFailed.
RUNTIMES = {"tensorrt": "tensorrt", ONNX_RUNTIME: "ort"}
ENGINES = "engines"  # folder in which engines and timing caches are kept


class Runtime(Protocol):
    """One runtime on one device, with the precision and threads it was opened with."""

    on_gpu: bool

    def read_key(self) -> dict[str, str]:
        """Device, runtime, precision, threads and power mode at this moment: what a latency depends on."""

    def load(self, file: Path, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """A callable that makes one complete, synchronised inference.

        Raises:
            MeasuringFailed: the runtime refuses the file.
        """


def find_runtime(name: str | None, provider: str | None, precision: str, threads: int | None, folder: Path) -> Runtime:
    """The runtime of that name; without a name the first that is installed and has a device to run on.

    Args:
        provider: of ONNX Runtime: cpu, cuda or tensorrt; cuda where it and a GPU are by default. It names that runtime.
        folder: engines and timing caches are kept in it.

    Raises:
        MeasuringFailed: it is not installed, or has no device to run on.
    """
    if name is None and provider is not None:
        name = ONNX_RUNTIME
    wanted = list(RUNTIMES) if name is None else [name]
    for each in wanted:
        try:
            opened: Runtime = import_module(f".{RUNTIMES[each]}", __package__).open_runtime(
                precision, threads, provider, folder / ENGINES
            )
            return opened
        except MeasuringFailed as error:
            failure = error
    raise failure
