"""Real engines are built, without a GPU, from pruned models in the form TensorRT takes."""

from pathlib import Path

import onnx
import pytest
from families import build

from nas.export.parity import check_parity
from nas.export.tensorrt_export import InputRange, build_engine, export_tensorrt_onnx
from pruning.surgery import prune
from search_spaces import Architecture
from search_spaces.errors import ExportError, MissingExtra

trt = pytest.importorskip("tensorrt_rtx", reason="engines need nas[tensorrt-rtx]")
RANGES = InputRange((1, 2), (2, 8), (4, 16))


@pytest.mark.parametrize("family", ["llama", pytest.param("bert", marks=pytest.mark.slow)])
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


def test_a_damaged_file_is_refused_with_the_parser_s_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(ExportError, match=r"refuses broken\.onnx"):
        build_engine(tmp_path / "broken.onnx", tmp_path / "model.engine", RANGES, compute_capability="SM89")


def test_without_tensorrt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtra, match=r"nas\[tensorrt\]"):
        build_engine(tmp_path / "model.onnx", tmp_path / "model.engine")
