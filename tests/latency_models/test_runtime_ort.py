"""Real measurements in ONNX Runtime: two graphs whose work differs by construction."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from latency_models.runtime_ort import environment, measure_interleaved
from latency_models.workload import Phase, Workload
from search_spaces.errors import MeasurementError

WIDTH, HERE = 192, Workload(Phase.FORWARD, 1, 64)
INPUTS = {"x": np.random.default_rng(0).standard_normal((64, WIDTH), dtype=np.float32)}


def chain(path: Path, layers: int) -> Path:
    """Write a graph of `layers` matrix products."""
    weight = np.eye(WIDTH, dtype=np.float32) * 0.5
    names = ["x", *(f"h{i}" for i in range(1, layers)), "y"]
    nodes = [onnx.helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)]
    weights = [onnx.numpy_helper.from_array(weight + i, f"w{i}") for i in range(layers)]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [64, WIDTH]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def test_more_work_takes_longer_and_the_sentinel_is_in_every_round(tmp_path: Path) -> None:
    files = {"short": chain(tmp_path / "short.onnx", 4), "long": chain(tmp_path / "long.onnx", 48)}
    shares: list[float] = []
    measured = measure_interleaved(
        files, INPUTS, HERE, sentinel="long", seconds=0.5, threads=1, least_rounds=20, on_round=shares.append
    )
    assert measured["short"].ratio() < 0.5 < measured["long"].ratio() == 1.0
    assert measured["short"].p50 < measured["long"].p50
    assert len(measured["short"].samples_ms) == len(measured["long"].samples_ms) == len(shares) >= 20
    assert measured["short"].sentinel_ms == measured["long"].samples_ms
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_few_seconds_still_give_the_least_rounds(tmp_path: Path) -> None:
    files = {"only": chain(tmp_path / "only.onnx", 2)}
    measured = measure_interleaved(files, INPUTS, HERE, sentinel="only", seconds=0.0, threads=1, least_rounds=7)
    assert len(measured["only"].samples_ms) == 7


def test_what_cannot_be_measured_is_one_clear_error(tmp_path: Path) -> None:
    good, broken = chain(tmp_path / "good.onnx", 2), tmp_path / "broken.onnx"
    broken.write_bytes(good.read_bytes()[:50])
    for path in (broken, tmp_path / "missing.onnx"):
        with pytest.raises(MeasurementError, match="cannot be loaded"):
            measure_interleaved({"a": path}, INPUTS, HERE, sentinel="a", seconds=0.1)
    for inputs in ({}, {"x": INPUTS["x"][:, :5]}):
        with pytest.raises(MeasurementError, match="a cannot be run"):
            measure_interleaved({"a": good}, inputs, HERE, sentinel="a", seconds=0.1)
    with pytest.raises(KeyError, match="sentinel"):
        measure_interleaved({"a": good}, INPUTS, HERE, sentinel="b", seconds=0.1)


def test_the_environment_names_everything_a_latency_depends_on() -> None:
    here = environment(1)
    assert set(here) == {"device", "runtime", "precision", "threads", "power_mode"}
    assert "onnxruntime" in here["runtime"]
    assert here != environment(2)
