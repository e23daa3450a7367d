"""ONNX Runtime on this machine's CPU: what a measurement depends on, and sessions to compare outputs with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latency_models.runner.failure import MeasuringFailed
from latency_models.runner.ort import OnnxRuntime, count_default_threads
from search_spaces.errors import MeasurementError

__all__ = ["count_default_threads", "open_session", "read_environment"]
PRECISION = "fp32"


def read_environment(threads: int) -> dict[str, str]:
    """What a measurement on this machine depends on; records with different ones are never mixed."""
    return OnnxRuntime(PRECISION, threads, "cpu").read_key()


def open_session(path: Path, threads: int, settings: Mapping[str, str] | None = None) -> Any:
    """An ONNX Runtime session on the CPU, as it is measured with: all optimisations on, one inter-op thread.

    Args:
        settings: of the runtime's own, by their names (session config entries).

    Raises:
        MeasurementError: when the runtime refuses the file.
    """
    try:
        return OnnxRuntime(PRECISION, threads, "cpu").open(path, settings)
    except MeasuringFailed as error:
        raise MeasurementError(str(error)) from error
