"""Exports that several files of tests look at: each takes seconds, so each is made once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from families import build

from latency_models.workload import Phase
from nas.export.graph_editing import ParentGraph
from nas.export.onnx_export import ONNX_RUNTIME_OPSET, export_onnx
from pruning.anatomy.anatomy import Anatomy, read_anatomy


@dataclass(frozen=True)
class Exported:
    """A tiny parent and its file; neither is to be changed."""

    model: Any
    anatomy: Anatomy
    path: Path

    @property
    def graph(self) -> ParentGraph:
        return ParentGraph.read(self.path, self.anatomy, self.model)


ExportParent = Callable[..., Exported]
_MADE: dict[tuple[str, Phase, int], Exported] = {}  # of this process: folders of tests have fixtures of their own


@pytest.fixture(scope="session")
def export_parent(tmp_path_factory: pytest.TempPathFactory) -> ExportParent:
    """Gives the export of a family, as (family, phase, opset)."""

    def export(family: str, phase: Phase = Phase.FORWARD, opset: int = ONNX_RUNTIME_OPSET) -> Exported:
        key = (family, phase, opset)
        if key not in _MADE:
            model = build(family)
            path = export_onnx(model, tmp_path_factory.mktemp(family) / f"{phase}-{opset}.onnx", opset, phase)
            _MADE[key] = Exported(model, read_anatomy(model), path)
        return _MADE[key]

    return export
