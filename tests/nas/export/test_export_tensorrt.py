"""Real engines are built, without a GPU, from pruned models in the form TensorRT takes."""

from pathlib import Path

import onnx
import pytest
from families import build

from latency_models.workload import Phase
from nas.export.cached_export import compute_axis_size
from nas.export.onnx_export import TENSORRT_OPSET
from nas.export.parity import check_parity
from nas.export.tensorrt_export import InputRange, build_engine, export_tensorrt_onnx
from pruning.surgery.prune import prune
from search_spaces import Architecture
from search_spaces.errors import ExportError, MissingExtra

trt = pytest.importorskip("tensorrt_rtx", reason="engines need nas[tensorrt-rtx]")
RANGES = InputRange((1, 2), (2, 8), (4, 16))


@pytest.mark.parametrize(
    "family", ["vit", *(pytest.param(family, marks=pytest.mark.slow) for family in ("llama", "bert"))]
)
def test_an_engine_is_built_from_a_pruned_model(family: str, tmp_path: Path) -> None:
    pruned = prune(build(family), Architecture.from_words("mlp attn removed attn+mlp"))
    path = export_tensorrt_onnx(pruned, tmp_path / "model.tensorrt.onnx")
    assert "Attention" not in {node.op_type for node in onnx.load(str(path)).graph.node}
    assert check_parity(pruned, path) < 1e-4
    version = build_engine(path, tmp_path / "model.engine", RANGES, compute_capability="SM89")
    assert version.startswith("tensorrt")
    assert (tmp_path / "model.engine").stat().st_size > 10_000
    with pytest.raises(ExportError, match="SM1"):
        build_engine(path, tmp_path / "other.engine", RANGES, compute_capability="SM1")


@pytest.mark.parametrize("family", ["llama", pytest.param("gemma2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("phase", [pytest.param(Phase.PREFILL, marks=pytest.mark.slow), Phase.DECODE])
@pytest.mark.parametrize(
    "words",
    [pytest.param("attn+mlp attn+mlp attn+mlp attn+mlp", marks=pytest.mark.slow), "mlp attn removed attn+mlp",
     pytest.param("mlp mlp mlp mlp", marks=pytest.mark.slow)],
)  # fmt: skip
def test_an_engine_is_built_from_what_is_derived_of_a_cached_phase(
    words: str, phase: Phase, family: str, export_parent, tmp_path: Path
) -> None:
    parent, architecture = export_parent(family, phase, TENSORRT_OPSET), Architecture.from_words(words)
    path = parent.graph.derive(architecture, tmp_path / "model.onnx")
    assert check_parity(prune(parent.model, architecture, anatomy=parent.anatomy), path, phase) < 1e-4
    build_engine(path, tmp_path / "model.engine", RANGES, compute_capability="SM89", phase=phase)
    assert (tmp_path / "model.engine").stat().st_size > 10_000


def test_an_axis_is_as_long_as_its_name_says() -> None:
    sizes = {
        "batch": 3,
        "sequence": 12,
        "past": 12,
        "past + 1": 13,
        "held_8": 7,
        "held_512": 12,
        "sinks_held_8": 11,
        "sinks_held_512": 16,
    }
    assert {axis: compute_axis_size(axis, 3, 12) for axis in sizes} == sizes
    assert compute_axis_size("past + sequence", 3, 12, Phase.DECODE) == 13
    assert compute_axis_size("sequence", 3, 12, Phase.DECODE) == 1


def test_a_damaged_file_is_refused_with_the_parser_s_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(ExportError, match=r"refuses broken\.onnx"):
        build_engine(tmp_path / "broken.onnx", tmp_path / "model.engine", RANGES, compute_capability="SM89")


def test_without_tensorrt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtra, match=r"nas\[tensorrt\]"):
        build_engine(tmp_path / "model.onnx", tmp_path / "model.engine")
