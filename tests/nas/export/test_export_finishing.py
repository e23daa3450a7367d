"""Exported files in the hands of other programs: ONNX Runtime's quantiser, ONNX's checker."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from families import build
from onnxruntime.quantization import quantize_dynamic

from latency_models.runtime_ort import open_session
from latency_models.workload import Phase, Workload
from nas.export.finishing import finish
from nas.export.onnx_export import (
    ONNX_RUNTIME_OPSET,
    TENSORRT_OPSET,
    export_onnx,
    make_example_inputs,
    make_workload_inputs,
)
from pruning.surgery.prune import prune
from search_spaces import Architecture
from search_spaces.errors import ExportError

WINNER = Architecture.from_words("mlp attn+mlp attn removed")
SHIPPED = [
    ("llama", Phase.FORWARD), ("bert", Phase.FORWARD), ("vit", Phase.FORWARD), ("gemma2", Phase.DECODE),
    pytest.param("llama", Phase.PREFILL, marks=pytest.mark.slow),
    pytest.param("llama", Phase.DECODE, marks=pytest.mark.slow),
    pytest.param("mixtral", Phase.FORWARD, marks=pytest.mark.slow),
]  # fmt: skip


def feed_of(model, phase: Phase) -> dict[str, np.ndarray]:
    if phase is Phase.FORWARD:
        return {name: tensor.numpy() for name, tensor in make_example_inputs(model, 2, 9).items()}
    return make_workload_inputs(
        model, Workload.parse(f"{phase}:batch=2" + (",past=9" if phase is Phase.DECODE else ",seq=9"))
    )


@pytest.mark.parametrize("opset", [ONNX_RUNTIME_OPSET, pytest.param(TENSORRT_OPSET, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("family", "phase"), SHIPPED)
def test_onnx_runtime_s_own_tool_quantises_a_winner(
    family: str, phase: Phase, opset: int, export_parent, tmp_path: Path
) -> None:
    """With its defaults: the file loads, is smaller, and gives nearly the same."""
    parent = export_parent(family, phase, opset)
    path = parent.graph.derive(WINNER, tmp_path / "winner.onnx")
    quantize_dynamic(str(path), str(tmp_path / "int8.onnx"))
    feed = feed_of(prune(parent.model, WINNER, anatomy=parent.anatomy), phase)
    exact, quantised = (open_session(tmp_path / name, 1).run(None, feed) for name in ("winner.onnx", "int8.onnx"))
    assert (tmp_path / "int8.onnx").stat().st_size < 0.75 * path.stat().st_size
    assert len(exact) == len(quantised)
    for one, other in zip(exact, quantised, strict=True):
        assert np.linalg.norm(one - other) < 0.1 * np.linalg.norm(one)
        assert np.abs(one - other).max() > 0  # something was quantised


@pytest.mark.parametrize("family", ["llama", pytest.param("bert", marks=pytest.mark.slow)])
def test_a_file_is_valid_and_runs_the_native_operator(family: str, export_parent, tmp_path: Path) -> None:
    path = export_parent(family).path
    onnx.checker.check_model(str(path), full_check=True)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "as-run.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    run = [node.op_type for node in onnx.load(str(tmp_path / "as-run.onnx")).graph.node]
    assert run.count("Attention") == 4


def test_weights_that_nobody_reads_are_removed_and_noted_types_of_weights_too(export_parent) -> None:
    proto = onnx.load(str(export_parent("vit").path))
    weights = {tensor.name for tensor in proto.graph.initializer}
    assert not weights & {entry.name for entry in proto.graph.value_info}
    read = {name for node in proto.graph.node for name in node.input}
    assert weights <= read
    unread = onnx.helper.make_tensor("unread", onnx.TensorProto.FLOAT, [2], [0.0, 1.0])
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["inner"], ["twin"])], "branch", [],
        [onnx.helper.make_tensor_value_info("twin", onnx.TensorProto.FLOAT, [2])],
    )  # fmt: skip
    condition = onnx.helper.make_tensor("condition", onnx.TensorProto.BOOL, [1], [True])
    within = onnx.helper.make_tensor("inner", onnx.TensorProto.FLOAT, [2], [0.0, 1.0])
    proto.graph.initializer.extend([unread, condition, within])
    proto.graph.node.append(
        onnx.helper.make_node("If", ["condition"], ["either"], then_branch=inner, else_branch=inner)
    )
    finish(proto)
    assert {tensor.name for tensor in proto.graph.initializer} == weights | {"condition", "inner"}


def test_a_failed_export_is_one_line_with_the_reason_and_a_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What cannot be traced is asked for: a choice by the values of the tokens."""
    model = build("llama")
    norm = model.model.layers[0].input_layernorm  # the first thing that is traced
    own = norm.forward

    def asking(states):
        return own(states) if float(states.sum()) > 0 else states

    norm.forward = asking
    with pytest.raises(ExportError) as caught:
        export_onnx(model, tmp_path / "model.onnx")
    message = str(caught.value)
    assert "\n" not in message
    assert "data-dependent" in message
    assert "\x1b" not in message
    assert "Traceback" in Path(message.partition("what the exporter said is in ")[2]).read_text()
    assert capfd.readouterr() == ("", "")
