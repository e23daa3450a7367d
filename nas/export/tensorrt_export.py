"""TensorRT: the form of ONNX it takes, and engines of it, built as the runner on a device builds them.

Precision comes from the graph. Engines are for one kind of device: without a GPU here, a compute capability must be
named.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from latency_models.runner import tensorrt
from latency_models.runner.failure import MeasuringFailed
from latency_models.workload import Phase
from nas.export.cached_export import compute_axis_size
from nas.export.onnx_export import TENSORRT_OPSET, export_onnx
from pruning.anatomy.positions import find_longest_sequence
from search_spaces.errors import ExportError, MissingExtra


@dataclass(frozen=True)
class InputRange:
    """Smallest, usual and largest (batch, sequence) an engine is built for; of `decode` (batch, past)."""

    minimum: tuple[int, int] = (1, 1)
    usual: tuple[int, int] = (1, 128)
    maximum: tuple[int, int] = (8, 512)

    def limit_to(self, model: Any, phase: Phase = Phase.FORWARD) -> "InputRange":
        """No longer than what a model has positions for; where it has none of its own, as they are."""
        longest = find_longest_sequence(model)
        if longest is None:
            return self
        most = longest - 1 if phase is Phase.DECODE else longest  # behind the past comes a new token
        sizes = (self.minimum, self.usual, self.maximum)
        return InputRange(*((batch, min(length, most)) for batch, length in sizes))


def export_tensorrt_onnx(
    model: Any,
    path: Path,
    phase: Phase = Phase.FORWARD,
    traced: dict[Phase, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a phase of the model in the form TensorRT parses: attention as plain operators, opset 18.

    Args:
        traced, dtype: as `export_onnx` has them.

    Raises:
        ExportError: when the model cannot be traced, or has no such phase.
    """
    return export_onnx(model, path, TENSORRT_OPSET, phase, traced, dtype)


def build_engine(
    onnx: Path,
    engine: Path,
    ranges: InputRange | None = None,
    compute_capability: str | None = None,
    phase: Phase = Phase.FORWARD,
) -> str:
    """Build an engine from an ONNX file and write it.

    Args:
        onnx: what `export_tensorrt_onnx` wrote.
        engine: the file to write.
        ranges: shapes the engine must take.
        compute_capability: `SM89` and the like, to build for a GPU that is not here (RTX only); None builds for
            the GPU of this machine.
        phase: of the file; an engine of `decode` takes one new token, since prompts are read with that of `prefill`.

    Returns:
        The module and version that built it.

    Raises:
        MissingExtra: TensorRT is not installed.
        ExportError: the file is refused, or no engine could be built.
    """
    sizes = ranges or InputRange()
    try:
        trt = tensorrt.find_module()
    except MeasuringFailed:
        raise MissingExtra(
            "building an engine needs TensorRT; pip install 'nas[tensorrt]' on the device, or 'nas[tensorrt-rtx]'"
        ) from None
    try:
        plan = tensorrt.build_engine(
            trt, onnx, lambda given: _resolve_shapes(given, sizes, phase), capability=compute_capability
        )
    except MeasuringFailed as error:
        raise ExportError(str(error)) from None
    engine.parent.mkdir(parents=True, exist_ok=True)
    engine.write_bytes(plan)
    return f"{trt.__name__} {trt.__version__}"


def _resolve_shapes(
    given: Any, ranges: InputRange, phase: Phase
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Named axes of an input become what they are at each (batch, length), fixed axes stay."""

    def resolve_at(batch: int, length: int) -> tuple[int, ...]:
        named = [(given.get_dimension_name(axis), size) for axis, size in enumerate(given.shape)]
        return tuple(compute_axis_size(name, batch, length, phase) if size == -1 else size for name, size in named)

    return resolve_at(*ranges.minimum), resolve_at(*ranges.usual), resolve_at(*ranges.maximum)
