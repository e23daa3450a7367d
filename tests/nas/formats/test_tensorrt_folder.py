"""The folder for a device with TensorRT: shapes of a graph by hand, and a real engine by the script that lies in it."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from deployed_format import write_source
from families import build
from onnx import TensorProto, helper

from latency_models.workload import Phase
from nas.export.tensorrt_export import InputRange
from nas.formats.deliver import write_checked
from nas.formats.tensorrt import BUILD, SHAPES, TensorRtFormat, list_shapes
from nas.progress import Silent
from search_spaces import Architecture


def test_shapes_are_those_of_each_phase(tmp_path: Path) -> None:
    given = {"input_ids": ["batch", "sequence"], "attention_mask": ["batch", "past + sequence"],
             "past.0.key": ["batch", 2, "past", 8]}  # fmt: skip
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in given.items()]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Identity", ["input_ids"], ["out"])], "g", inputs, [output])
    onnx.save(helper.make_model(graph), str(tmp_path / "model.onnx"))
    assert list_shapes(tmp_path / "model.onnx", Phase.DECODE, InputRange()) == {
        "input_ids": [(1, 1), (1, 1), (8, 1)],
        "attention_mask": [(1, 2), (1, 129), (8, 513)],
        "past.0.key": [(1, 2, 1, 8), (1, 2, 128, 8), (8, 2, 512, 8)],
    }


@pytest.mark.parametrize(
    ("family", "phase", "longest"),
    [("bert", Phase.FORWARD, 64), ("gpt2", Phase.DECODE, 63), ("llama", Phase.FORWARD, 512), ("vit", "forward", 512)],
)
def test_shapes_are_no_longer_than_the_positions_of_a_model(family: str, phase: Phase, longest: int) -> None:
    ranges = InputRange().limit_to(build(family), phase)
    assert (ranges.minimum, ranges.maximum) == ((1, 1), (8, longest))
    assert ranges.usual == (1, min(128, longest))


@pytest.mark.slow
def test_the_script_in_the_folder_builds_an_engine(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="engines need nas[tensorrt-rtx]")
    source = write_source(tmp_path / "model", "vit", Architecture.from_words("mlp attn+mlp attn attn+mlp"))
    folder = tmp_path / "tensorrt"
    assert "on the device" in write_checked(TensorRtFormat(), source, folder, Silent()).note
    assert {BUILD, SHAPES, "model.tensorrt.onnx"} <= {file.name for file in folder.iterdir()}
    command = [sys.executable, "-I", str(folder / BUILD), "--compute-capability", "SM89"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "model.tensorrt.engine").stat().st_size > 1000
