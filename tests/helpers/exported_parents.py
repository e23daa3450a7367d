"""Exports that several files of tests look at: each takes seconds, so a run makes each once."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from families import build
from filelock import FileLock

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
            model, path = build(family), _folder_of_the_run(tmp_path_factory) / f"{family}-{phase}-{opset}.onnx"
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():
                    export_onnx(model, path.with_suffix(".draft.onnx"), opset, phase).replace(path)
            _MADE[key] = Exported(model, read_anatomy(model), path)
        return _MADE[key]

    return export


def _folder_of_the_run(factory: pytest.TempPathFactory) -> Path:
    """Where all processes of a run look; each has a folder of its own in the run's."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "exports"
    folder.mkdir(exist_ok=True)
    return folder
