"""ONNX Runtime: on the CPU, and through CUDA or TensorRT where it was built with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .conditions import read_board, read_power_mode, read_processor
from .cuda import Cuda
from .failure import MeasuringFailed, get_first_line
from .fitting import fit_inputs
from .nvml import find_gpu

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_FLOATING, _UNFUSED = "float8", "session.disable_quant_qdq"


def count_default_threads() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OnnxRuntime:
    """ONNX Runtime with one provider, all graph optimisations, one inter-op thread, no spinning."""

    def __init__(
        self, precision: str, threads: int | None = None, provider: str | None = None, cache: Path | None = None
    ) -> None:
        """`provider` is cpu, cuda or tensorrt; without one cuda where it and a GPU are. TensorRT's engines are cached.

        Raises:
            MeasuringFailed: ONNX Runtime, the provider or its GPU is missing.
        """
        self._module = _import_module()
        self._gpu_name = None if provider == "cpu" else _read_gpu_name()
        there = [name for name, full in PROVIDERS.items() if full in self._module.get_available_providers()]
        self._provider = provider or ("cuda" if "cuda" in there and self._gpu_name else "cpu")
        self.on_gpu = self._provider != "cpu"
        if self._provider not in there or (self.on_gpu and not self._gpu_name):
            raise MeasuringFailed(
                f"onnxruntime {self._module.__version__} cannot use {self._provider} here: it was built with "
                f"{', '.join(there)} and the GPU is {self._gpu_name or 'missing'}; choose another --provider"
            )
        self._precision, self._threads, self._cache = precision, threads or count_default_threads(), cache
        self._gpu = find_gpu() if self.on_gpu else None

    def read_key(self) -> dict[str, str]:
        """What a latency depends on; records with different ones are never mixed."""
        return {
            "device": (read_board() or self._gpu_name or "") if self.on_gpu else read_processor(),
            "runtime": f"onnxruntime {self._module.__version__} {PROVIDERS[self._provider]}",
            "precision": self._precision,
            "threads": f"{self._threads}, no spinning",
            "power_mode": read_power_mode(gpu=self._gpu),
        }

    def load(self, file: Path, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """A callable that runs the file on those inputs it asks for; on a GPU they and the outputs stay there."""
        session = self.open(file)
        wanted = fit_inputs(inputs, {node.name: node.shape for node in session.get_inputs()})
        return self.bind(session, wanted, "cuda") if self.on_gpu else lambda: session.run(None, wanted)

    def open(self, file: Path, settings: Mapping[str, str] | None = None) -> Any:
        """A session, with `settings` of the runtime's own (session config entries) beside those that all have.

        Raises:
            MeasuringFailed: the runtime refuses the file, or falls back to another provider.
        """
        options = self._module.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.graph_optimization_level = self._module.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Several sessions live side by side: the waiting threads of one must not burn the cores of another.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights that a graph expands are multiplied with the inputs that it says, not with those rounded to 8 bits.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        for name, value in (settings or {}).items():
            options.add_session_config_entry(name, value)
        options.log_severity_level = 3
        try:
            session = self._module.InferenceSession(str(file), options, providers=self._list_providers())
        except Exception as error:  # the runtime raises classes of its own, all unrelated
            if _FLOATING in str(error) and _UNFUSED not in (settings or {}):  # it fuses products that it cannot compute
                return self.open(file, {**(settings or {}), _UNFUSED: "1"})
            raise MeasuringFailed(
                f"{file} cannot be loaded by ONNX Runtime ({get_first_line(error)}); export it again"
            ) from error
        if session.get_providers()[0] != PROVIDERS[self._provider]:
            raise MeasuringFailed(
                f"{file} would run in {session.get_providers()[0]} instead of {PROVIDERS[self._provider]}; "
                "see the runtime's log for what its provider is missing"
            )
        return session

    def bind(self, session: Any, inputs: Mapping[str, np.ndarray], device: str) -> Callable[[], object]:
        """A callable whose inputs lie on `device` (cpu, cuda) beforehand and whose outputs stay there."""
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, self._module.OrtValue.ortvalue_from_numpy(array, device, 0))
        for output in session.get_outputs():
            binding.bind_output(output.name, device)

        def run() -> object:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return binding

        return run

    def _list_providers(self) -> list[Any]:
        if self._provider != "tensorrt" or self._cache is None:
            return [PROVIDERS[self._provider]]
        self._cache.mkdir(parents=True, exist_ok=True)
        kept = {f"trt_{kind}_cache_{what}": value for kind in ("engine", "timing")
                for what, value in (("enable", True), ("path", str(self._cache)))}  # fmt: skip
        return [(PROVIDERS["tensorrt"], kept), PROVIDERS["cuda"]]


def _import_module() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MeasuringFailed(
            f"onnxruntime cannot be imported ({get_first_line(error)}); pip install onnxruntime, "
            "or TensorRT where it is"
        ) from None
    return onnxruntime


def _read_gpu_name() -> str | None:
    try:
        return Cuda().read_name()
    except OSError:
        return None


def open_runtime(precision: str, threads: int | None, provider: str | None, cache: Path) -> OnnxRuntime:
    """ONNX Runtime as a plan asks for it; raises MeasuringFailed as its constructor."""
    return OnnxRuntime(precision, threads, provider, cache)
