"""Runtimes: what turns a file into a callable, found by what the device has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from .failure import MeasuringFailed

RUNTIMES = ("onnxruntime", "tensorrt")
ENGINES = "engines"  # folder in which engines and timing caches are kept


class Runtime(Protocol):
    """One runtime on one device, with the precision and threads it was opened with."""

    on_gpu: bool

    def key(self) -> dict[str, str]:
        """Device, runtime, precision, threads and power mode at this moment: what a latency depends on."""

    def load(self, file: Path, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """A callable that makes one complete, synchronised inference.

        Raises:
            MeasuringFailed: the runtime refuses the file.
        """


def find_runtime(name: str | None, provider: str | None, precision: str, threads: int | None, folder: Path) -> Runtime:
    """The runtime of that name; without a name TensorRT where it and a GPU are, else ONNX Runtime.

    Args:
        provider: of ONNX Runtime: cpu, cuda or tensorrt; cuda where it and a GPU are by default.
        folder: engines and timing caches are kept in it.

    Raises:
        MeasuringFailed: it is not installed, or has no device to run on.
    """
    from .ort import OnnxRuntime
    from .tensorrt import TensorRT

    if name == "tensorrt" or (name is None and provider is None):
        try:
            return TensorRT(precision, threads, folder / ENGINES)
        except MeasuringFailed:
            if name is not None:
                raise
    return OnnxRuntime(precision, threads, provider, folder / ENGINES)
