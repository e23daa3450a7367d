"""The winner's file is the parent's, edited: it equals a fresh export of the pruned model."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from latency_models.runtime_ort import open_session
from latency_models.workload import Phase, Workload
from nas.export.exporters import EXPORTERS
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import ONNX_RUNTIME_OPSET, TENSORRT_OPSET, export_onnx, make_workload_inputs
from nas.export.parent_export import ParentExport
from nas.export.parity import check_parity
from nas.progress import Silent
from pruning.surgery.prune import prune, read_architecture
from search_spaces import Architecture
from search_spaces.errors import ExportError

MIXED = "mlp attn+mlp attn removed"
WORKLOADS = {
    Phase.FORWARD: Workload.parse("forward:batch=2,seq=10"),
    Phase.PREFILL: Workload.parse("prefill:batch=2,seq=9"),
    Phase.DECODE: Workload.parse("decode:batch=2,past=9"),
}
CASES = [
    ("vit", Phase.FORWARD, ONNX_RUNTIME_OPSET),
    ("gemma2", Phase.DECODE, ONNX_RUNTIME_OPSET),
    *(
        pytest.param(family, phase, opset, marks=pytest.mark.slow)
        for opset in (ONNX_RUNTIME_OPSET, TENSORRT_OPSET)
        for family, phases in {"llama": Phase, "bert": [Phase.FORWARD], "gemma2": Phase, "vit": [Phase.FORWARD]}.items()
        for phase in phases
    ),
]


def simplified(path: Path) -> Counter[str]:
    """Operators after what ONNX Runtime simplifies whatever the machine is."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path.with_suffix(".simplified.onnx"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize(("family", "phase", "opset"), CASES)
def test_an_edited_file_equals_a_fresh_export(
    family: str, phase: Phase, opset: int, export_parent, tmp_path: Path
) -> None:
    parent = export_parent(family, phase, opset)
    architecture = Architecture.from_words(MIXED)
    pruned = prune(parent.model, architecture, anatomy=parent.anatomy)
    edited = parent.graph.derive(architecture, tmp_path / "edited.onnx")
    fresh = export_onnx(pruned, tmp_path / "fresh.onnx", opset, phase)
    assert simplified(edited) == simplified(fresh)
    graphs = [onnx.load(str(path)).graph for path in (edited, fresh)]
    for ends in ("input", "output"):
        assert len({str([(end.name, str(end.type)) for end in getattr(graph, ends)]) for graph in graphs}) == 1
    feed = make_workload_inputs(pruned, WORKLOADS[phase])
    for one, other in zip(*(open_session(path, 1).run(None, feed) for path in (edited, fresh)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    weights = [sum(len(tensor.raw_data) for tensor in graph.initializer) for graph in graphs]
    assert weights[0] == pytest.approx(weights[1], rel=0.02)


@pytest.mark.parametrize(
    ("family", "phase"), [("vit", Phase.FORWARD), pytest.param("llama", Phase.DECODE, marks=pytest.mark.slow)]
)
def test_what_was_traced_for_one_form_gives_the_other(
    family: str, phase: Phase, export_parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without tracing again: the same file as one that was traced for it."""
    alone = export_parent(family, phase, TENSORRT_OPSET)
    traced: dict[Phase, object] = {}
    export_onnx(alone.model, tmp_path / "native.onnx", ONNX_RUNTIME_OPSET, phase, traced)
    monkeypatch.setattr("torch.export.export", None)
    after = export_onnx(alone.model, tmp_path / "plain.onnx", TENSORRT_OPSET, phase, traced)
    assert check_parity(alone.model, after, phase) < 1e-4
    graphs = [onnx.load(str(path)).graph for path in (after, alone.path)]
    assert len({str(Counter(node.op_type for node in graph.node)) for graph in graphs}) == 1
    for ends in ("input", "output"):
        assert len({str([(end.name, str(end.type)) for end in getattr(graph, ends)]) for graph in graphs}) == 1
    ParentGraph.read(after, alone.anatomy, alone.model)  # its nodes still say which modules they came from


@pytest.fixture
def export(export_parent, tmp_path: Path) -> ParentExport:
    made = export_parent("vit")
    parent = SimpleNamespace(model=made.model, anatomy=made.anatomy, cache=tmp_path / "cache")
    export = ParentExport(parent, Silent())
    export.__dict__["path"] = made.path
    return export


def test_a_winner_is_written_without_an_export(
    export: ParentExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.export.exporters.export_for_onnx_runtime", None)
    pruned = prune(export.parent.model, Architecture.from_words(MIXED), anatomy=export.parent.anatomy)
    assert export.write_pruned(pruned, tmp_path / "model.onnx") == ""
    assert read_architecture(pruned, 4).words == MIXED


def test_where_an_edit_is_impossible_the_model_is_exported(
    export: ParentExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where an edit gives another function than the model: it is compared."""
    asked = []
    monkeypatch.setattr(
        "nas.export.exporters.export_for_onnx_runtime",
        lambda model, path, check, phase, traced, dtype: asked.append(path.name) or (23, ""),
    )
    pruned = prune(export.parent.model, Architecture.from_words(MIXED), anatomy=export.parent.anatomy)

    def impossible(self, architecture, path, adjusted):
        raise ExportError("no such place")

    own = ParentGraph.derive
    other = Architecture.from_words("attn+mlp attn+mlp attn removed")
    for edit in (impossible, lambda self, architecture, path, adjusted: own(self, other, path)):
        monkeypatch.setattr(ParentGraph, "derive", edit)
        reason = export.write_pruned(pruned, tmp_path / "model.onnx")
        assert "so exported anew: " in reason
    assert asked == ["model.onnx"] * 2


def test_each_form_of_the_parent_is_kept_under_its_own_name(tmp_path: Path) -> None:
    parent = SimpleNamespace(cache=tmp_path)
    exports = [ParentExport(parent, Silent(), phase, form) for phase in Phase for form in EXPORTERS.values()]
    assert len({export._get_cached_path("parent") for export in exports}) == len(exports)
    assert EXPORTERS["tensorrt"].name_file("model-decode.onnx") == "model-decode.tensorrt.onnx"
