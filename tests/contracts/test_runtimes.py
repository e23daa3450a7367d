"""Every runtime of the runner is found by its name, opened the same way, and says what its latencies depend on."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest

from latency_models.runner.failure import MeasuringFailed
from latency_models.runner.runtime import ENGINES, RUNTIMES, find_runtime

KEY = {"device", "runtime", "precision", "threads", "power_mode"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """y = x + x."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_opens_or_says_in_a_line_why_not(name: str, file: Path) -> None:
    refusal, runtime = "", None
    try:
        runtime = find_runtime(name, None, "fp32", 1, file.parent)
    except MeasuringFailed as error:
        refusal = str(error)
    assert bool(refusal) != (runtime is not None)
    if runtime is None:
        assert "\n" not in refusal
        return
    assert set(runtime.read_key()) >= KEY
    run: Callable[[], object] = runtime.load(file, {"x": np.ones((2, 3), np.float32)})
    assert run() is not NotImplemented
    with pytest.raises(MeasuringFailed):
        runtime.load(file.parent / "missing.onnx", {})


def test_without_a_name_the_first_that_opens_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, Path]] = []
    for name, module in RUNTIMES.items():

        def stub(precision, threads, provider, cache, name=name):
            opened.append((name, cache))
            if name == "tensorrt":
                raise MeasuringFailed("no GPU")
            return name

        monkeypatch.setattr(import_module(f"latency_models.runner.{module}"), "open_runtime", stub)
    assert find_runtime(None, None, "fp32", None, tmp_path) == "onnxruntime"
    assert opened == [("tensorrt", tmp_path / ENGINES), ("onnxruntime", tmp_path / ENGINES)]
    opened.clear()
    assert find_runtime(None, "cpu", "fp32", None, tmp_path) == "onnxruntime"
    assert [name for name, _ in opened] == ["onnxruntime"]
    with pytest.raises(MeasuringFailed, match="no GPU"):
        find_runtime("tensorrt", None, "fp32", None, tmp_path)
