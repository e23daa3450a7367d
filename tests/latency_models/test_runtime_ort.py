"""ONNX Runtime on the CPU: what is timed computes what the file says, and its key names what it depends on."""

from pathlib import Path

import numpy as np
import pytest
from chains import INPUTS, chain

from latency_models.runner.failure import MeasuringFailed
from latency_models.runner.ort import OnnxRuntime
from latency_models.runtime_ort import open_session, read_environment
from search_spaces.errors import MeasurementError


def product(layers: int) -> np.ndarray:
    """The truth about a chain in double precision."""
    value = INPUTS["x"].astype(np.float64)
    for layer in range(layers):
        value = value @ (0.5 * np.eye(value.shape[1]) + layer)
    return value


def test_what_is_timed_computes_what_the_file_says(tmp_path: Path) -> None:
    runtime, file = OnnxRuntime("fp32", 1, "cpu"), chain(tmp_path / "a.onnx", 3)
    assert np.allclose(runtime.load(file, INPUTS | {"unused": np.zeros(3)})()[0], product(3), rtol=1e-4)
    bound = runtime.bind(runtime.open(file), INPUTS, "cpu")()  # as on a GPU, where inputs and outputs stay
    assert np.allclose(bound.copy_outputs_to_cpu()[0], product(3), rtol=1e-4)


def test_a_provider_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasuringFailed, match=r"cannot use tensorrt here: it was built with cpu.*another --provider"):
        OnnxRuntime("fp32", 1, "tensorrt", tmp_path)
    assert not OnnxRuntime("fp32").on_gpu


def test_a_file_that_is_refused_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(chain(tmp_path / "good.onnx", 2).read_bytes()[:50])
    for path in (broken, tmp_path / "missing.onnx"):
        with pytest.raises(MeasurementError, match=rf"{path.name} cannot be loaded by ONNX Runtime .*export it again"):
            open_session(path, 1)


def test_the_environment_names_everything_a_latency_depends_on() -> None:
    here = read_environment(1)
    assert set(here) == {"device", "runtime", "precision", "threads", "power_mode"}
    assert "onnxruntime" in here["runtime"]
    assert here != read_environment(2)
