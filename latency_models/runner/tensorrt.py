"""TensorRT 10, 11 and RTX: engines built on the device from ONNX, kept on disk, run on what lies on the GPU.

All three modules have the same interface. From version 11 on (and in RTX) every network is strongly typed; in 10 that
is a flag. Precision comes from the graph, so no precision flag is set.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .conditions import read_board, read_power_mode
from .cuda import Cuda
from .failure import MeasuringFailed, get_first_line
from .fitting import fit_inputs, fit_shape
from .nvml import find_gpu

MODULES = ("tensorrt", "tensorrt_rtx")
_WORKSPACE = 1 << 30  # bytes
Shape = tuple[int, ...]
Shapes = Callable[[Any], tuple[Shape, Shape, Shape]]  # least, usual and most of an input of the network


class TensorRT:
    """One TensorRT module on the first GPU."""

    on_gpu = True

    def __init__(self, precision: str, threads: int | None, cache: Path) -> None:
        """`cache` is the folder of engines and timing caches; `threads` is not used by a GPU.

        Raises:
            MeasuringFailed: TensorRT or a GPU is missing.
        """
        self._trt = find_module()
        try:
            self._cuda = Cuda()
            self._device = read_board() or self._cuda.read_name()
        except OSError as error:
            raise MeasuringFailed(f"TensorRT needs an NVIDIA GPU and its driver ({error}); measure elsewhere") from None
        self._precision, self._cache = precision, cache
        self._gpu = find_gpu()
        self._runtime = self._trt.Runtime(self._trt.Logger(self._trt.Logger.WARNING))

    def read_key(self) -> dict[str, str]:
        """What a latency depends on; records with different ones are never mixed."""
        return {
            "device": self._device,
            "runtime": f"{self._trt.__name__} {self._trt.__version__}",
            "precision": self._precision,
            "threads": "one stream",
            "power_mode": read_power_mode(gpu=self._gpu),
        }

    def load(self, file: Path, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """A callable that runs the file's engine; inputs and outputs stay on the GPU."""
        kept = self._cache / f"{compute_engine_digest(self._trt, file, inputs, self._device)}.engine"
        if not kept.exists():
            timing = self._cache / f"{hashlib.sha256(self._read_platform().encode()).hexdigest()[:16]}.timing"
            _write(kept, build_engine(self._trt, file, fix_shapes(inputs), timing=timing))
        engine = self._runtime.deserialize_cuda_engine(kept.read_bytes())
        if engine is None:
            raise MeasuringFailed(f"{kept} cannot be read by {self._read_platform()}; remove it and run again")
        return Execution(self._trt, self._cuda, engine, inputs).run

    def _read_platform(self) -> str:
        return f"{self._trt.__name__} {self._trt.__version__} {self._device}"


def find_module() -> Any:
    """The `tensorrt` module, or `tensorrt_rtx` where that is what is installed.

    Raises:
        MeasuringFailed: neither is.
    """
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise MeasuringFailed(f"none of {', '.join(MODULES)} can be imported; install one, or use --runtime onnxruntime")


def build_engine(
    trt: Any, file: Path, shapes: Shapes, *, timing: Path | None = None, capability: str | None = None
) -> bytes:
    """Build the engine of an ONNX file.

    Args:
        shapes: of each input.
        timing: a cache of tactic timings, read and brought up to date: variants of a model share most layers.
        capability: build for a GPU that is not here, for example SM89 (RTX only).

    Raises:
        MeasuringFailed: TensorRT refuses the file, or cannot build for that GPU.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = _parse(trt, builder, logger, file)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE)
    if capability is not None:
        _set_capability(trt, config, capability)
    profile = builder.create_optimization_profile()
    for given in (network.get_input(index) for index in range(network.num_inputs)):
        profile.set_shape(given.name, *shapes(given))
    config.add_optimization_profile(profile)
    if timing is not None and hasattr(config, "create_timing_cache"):
        config.set_timing_cache(config.create_timing_cache(timing.read_bytes() if timing.exists() else b""), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise MeasuringFailed(f"TensorRT built no engine from {file.name}; see its log above")
    if timing is not None and (renewed := config.get_timing_cache()) is not None:
        _write(timing, bytes(renewed.serialize()))
    return bytes(plan)


def fix_shapes(inputs: Mapping[str, np.ndarray]) -> Shapes:
    """The shapes that these arrays are fitted to, and no others."""

    def get_shapes(given: Any) -> tuple[Shape, Shape, Shape]:
        if given.name not in inputs:
            raise MeasuringFailed(f"the input {given.name!r} is not among {sorted(inputs)}; unpack the kit again")
        axes = [size if size > 0 else given.get_dimension_name(axis) for axis, size in enumerate(given.shape)]
        shape = fit_shape(inputs[given.name].shape, axes)
        return shape, shape, shape

    return get_shapes


def _parse(trt: Any, builder: Any, logger: Any, file: Path) -> Any:
    flags = trt.NetworkDefinitionCreationFlag
    typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(file)):
        reasons = "; ".join(str(parser.get_error(i)).splitlines()[0] for i in range(parser.num_errors))
        raise MeasuringFailed(f"TensorRT refuses {file.name}: {reasons[:300]}")
    return network


def _set_capability(trt: Any, config: Any, name: str) -> None:
    capability = getattr(getattr(trt, "ComputeCapability", None), name, None)
    if capability is None:
        raise MeasuringFailed(f"{trt.__name__} cannot build for {name!r} without that GPU; build on the device")
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)


def compute_engine_digest(trt: Any, file: Path, inputs: Mapping[str, np.ndarray], device: str) -> str:
    """Names an engine by everything it depends on: graph and weights, shapes, version, device."""
    shapes = sorted((name, array.shape) for name, array in inputs.items())
    text = f"{_digest_content(file)} {shapes} {trt.__name__} {trt.__version__} {device}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _digest_content(file: Path) -> str:
    """Of the file and of what lies beside it as external weights."""
    return " ".join(_compute_sha256(path) for path in (file, *sorted(file.parent.glob("*.data"))))


@functools.cache
def _compute_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while part := opened.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(content)
    draft.replace(path)


class Execution:
    """An engine with its inputs and outputs on the GPU, given back when nobody runs it any more."""

    def __init__(self, trt: Any, cuda: Cuda, engine: Any, inputs: Mapping[str, np.ndarray]) -> None:
        self._addresses: list[int] = []
        self._engine, self._cuda = engine, cuda
        self._context = engine.create_execution_context()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        given = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        try:
            self._stream = cuda.create_stream()
            for name in given:
                fitted = fit_inputs(inputs, {name: tuple(engine.get_tensor_profile_shape(name, 0)[0])})[name]
                array = np.ascontiguousarray(fitted, trt.nptype(engine.get_tensor_dtype(name)))
                self._context.set_input_shape(name, array.shape)
                self._hold(name, cuda.upload(array))
            for name in set(names) - set(given):
                self._hold(name, cuda.allocate(self._context.get_max_output_size(name)))
        except OSError as error:
            raise MeasuringFailed(f"the GPU has no room for the tensors ({get_first_line(error)})") from error

    def run(self) -> None:
        """One inference, waited for."""
        if not self._context.execute_async_v3(self._stream):
            raise MeasuringFailed("the engine cannot be run; see TensorRT's log above")
        self._cuda.synchronize(self._stream)

    def __del__(self) -> None:
        for address in self._addresses:
            self._cuda.free(address)

    def _hold(self, name: str, address: int) -> None:
        self._addresses.append(address)
        self._context.set_tensor_address(name, address)


def open_runtime(precision: str, threads: int | None, provider: str | None, cache: Path) -> TensorRT:
    """TensorRT as a plan asks for it, which has no providers; raises MeasuringFailed as its constructor."""
    return TensorRT(precision, threads, cache)
