"""TensorRT: the form of ONNX it takes, and one builder over `tensorrt` and `tensorrt_rtx`.

Both modules have the same interface. From version 11 on (and in RTX) every network is strongly typed; in 10.x that is
a flag. Precision therefore comes from the graph and no precision flag is set. Engines are for one kind of device:
without a GPU here, a compute capability must be named.
"""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from latency_models.workload import Phase
from nas.export.cached_export import axis_size
from nas.export.onnx_export import TENSORRT_OPSET, export_onnx
from search_spaces.errors import ExportError, MissingExtra

_WORKSPACE = 1 << 30  # bytes


@dataclass(frozen=True)
class InputRange:
    """Smallest, usual and largest (batch, sequence) an engine is built for; of `decode` (batch, past)."""

    least: tuple[int, int] = (1, 1)
    usual: tuple[int, int] = (1, 128)
    most: tuple[int, int] = (8, 512)


def export_tensorrt_onnx(model: Any, path: Path, phase: Phase = Phase.FORWARD) -> Path:
    """Write a phase of the model in the form TensorRT parses: attention as plain operators, opset 18.

    Raises:
        ExportError: when the model cannot be traced, or has no such phase.
    """
    return export_onnx(model, path, TENSORRT_OPSET, phase)


def find_tensorrt() -> ModuleType:
    """The `tensorrt` module, or `tensorrt_rtx` where that is what is installed.

    Raises:
        MissingExtra: neither is.
    """
    try:
        import tensorrt

        return tensorrt  # type: ignore[no-any-return]
    except ImportError:
        pass
    try:
        import tensorrt_rtx

        return tensorrt_rtx  # type: ignore[no-any-return]
    except ImportError:
        raise MissingExtra(
            "building an engine needs TensorRT; pip install 'nas[tensorrt]' on the device, or 'nas[tensorrt-rtx]'"
        ) from None


def build_engine(
    onnx: Path, engine: Path, ranges: InputRange | None = None, compute_capability: str | None = None
) -> str:
    """Build an engine from an ONNX file and write it.

    Args:
        onnx: what `export_tensorrt_onnx` wrote.
        engine: the file to write.
        ranges: shapes the engine must take.
        compute_capability: `SM89` and the like, to build for a GPU that is not here (RTX only); None builds for
            the GPU of this machine.

    Returns:
        The module and version that built it.

    Raises:
        MissingExtra: TensorRT is not installed.
        ExportError: the file is refused, or no engine could be built.
    """
    trt = find_tensorrt()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flags = trt.NetworkDefinitionCreationFlag
    typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        reasons = "; ".join(str(parser.get_error(i)).splitlines()[0] for i in range(parser.num_errors))
        raise ExportError(f"TensorRT refuses {onnx.name}: {reasons[:300]}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE)
    if compute_capability is not None:
        _for_capability(trt, config, compute_capability)
    config.add_optimization_profile(_shapes(builder, network, ranges or InputRange()))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"TensorRT built no engine from {onnx.name}; see its log above")
    engine.parent.mkdir(parents=True, exist_ok=True)
    engine.write_bytes(bytes(plan))
    return f"{trt.__name__} {trt.__version__}"


def _for_capability(trt: Any, config: Any, name: str) -> None:
    capability = getattr(getattr(trt, "ComputeCapability", None), name, None)
    if capability is None:
        raise ExportError(f"{trt.__name__} cannot build for {name!r} without that GPU; build on the device")
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)


def _shapes(builder: Any, network: Any, ranges: InputRange) -> Any:
    """One profile: named axes become what they are at each (batch, length), fixed axes stay."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        given = network.get_input(index)
        shapes = [
            tuple(
                axis_size(given.get_dimension_name(axis), *sizes) if size == -1 else size
                for axis, size in enumerate(given.shape)
            )
            for sizes in (ranges.least, ranges.usual, ranges.most)
        ]
        profile.set_shape(given.name, *shapes)
    return profile
