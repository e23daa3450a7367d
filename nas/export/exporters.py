"""Exporters: in which operators a model's file is written, one for every runtime that reads files.

A new one is a class here and a line in `EXPORTERS`; `tests/contracts` says what it has to do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from latency_models.workload import Phase
from nas.export.onnx_export import ONNX_RUNTIME_OPSET, TENSORRT_OPSET, export_for_onnx_runtime
from nas.export.parity import check_parity
from nas.export.tensorrt_export import export_tensorrt_onnx

Check = Callable[[Any, Path, Phase], float]  # how far a file of a model's phase is from it


@dataclass(frozen=True)
class Exported:
    """A written file: its opset, and why that is not the usual one; empty where it is."""

    opset: int
    reason: str = ""


class Exporter(Protocol):
    """Writes files for one runtime.

    Attributes:
        name: of the runtime, as targets name it.
        opset: of ONNX, where nothing is in the way.
    """

    @property
    def name(self) -> str:
        """Of the runtime."""

    @property
    def opset(self) -> int:
        """Of ONNX."""

    def name_file(self, name: str) -> str:
        """What a file for this runtime is called, of a model's file name."""

    def export(
        self,
        model: Any,
        path: Path,
        phase: Phase,
        traced: dict[Phase, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        check: Check = check_parity,
    ) -> Exported:
        """Write one phase of a model, compared with the model.

        Args:
            traced, dtype: as `export_onnx` has them.
            check: raises ExportError where a file does not compute what the model does.

        Raises:
            ExportError: no file computes what the model does, or it has no such phase.
        """


@dataclass(frozen=True)
class OnnxRuntimeExporter:
    """Native attention where ONNX Runtime runs it right, else plain operators."""

    name: str = "onnxruntime"
    opset: int = ONNX_RUNTIME_OPSET

    def name_file(self, name: str) -> str:
        """The model's own name."""
        return name

    def export(
        self,
        model: Any,
        path: Path,
        phase: Phase,
        traced: dict[Phase, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        check: Check = check_parity,
    ) -> Exported:
        """Write one phase, compared with the model."""
        return Exported(*export_for_onnx_runtime(model, path, check, phase, traced, dtype))


@dataclass(frozen=True)
class TensorRtExporter:
    """Plain operators only, which TensorRT parses."""

    name: str = "tensorrt"
    opset: int = TENSORRT_OPSET

    def name_file(self, name: str) -> str:
        """`model.tensorrt.onnx`."""
        return f"{name.removesuffix('.onnx')}.{self.name}.onnx"

    def export(
        self,
        model: Any,
        path: Path,
        phase: Phase,
        traced: dict[Phase, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        check: Check = check_parity,
    ) -> Exported:
        """Write one phase, compared with the model."""
        check(model, export_tensorrt_onnx(model, path, phase, traced, dtype), phase)
        return Exported(self.opset)


ONNX_RUNTIME: Exporter = OnnxRuntimeExporter()
EXPORTERS: dict[str, Exporter] = {exporter.name: exporter for exporter in (ONNX_RUNTIME, TensorRtExporter())}


def find_exporter(runtime: str) -> Exporter:
    """The exporter for a target's runtime; a runtime that reads no files of its own is measured in ONNX Runtime."""
    return EXPORTERS.get(runtime, ONNX_RUNTIME)
