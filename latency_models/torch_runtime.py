"""PyTorch, on the CPU or through CUDA graphs: modules measured in this process by the protocol of every runtime."""

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from latency_models.measurement import Measurement
from latency_models.measuring.conditions import power_mode, processor
from latency_models.measuring.energy import energy_meter, joules_per_inference
from latency_models.measuring.failure import MeasuringFailed, first_line
from latency_models.measuring.nvml import find_gpu
from latency_models.measuring.ort import default_threads
from latency_models.measuring.protocol import measure
from latency_models.workload import Workload
from search_spaces.errors import MeasurementError

_SIDE_STREAM_RUNS = 3  # before a capture: libraries allocate and choose their kernels
_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class TorchRuntime:
    """PyTorch on one device.

    Attributes:
        device: `cpu`, or `cuda`: the first GPU, where a module is captured as a CUDA graph and replayed, so that the
            time is the device's and not that of Python launching kernels.
    """

    def __init__(self, device: str = "cpu", dtype: torch.dtype = torch.float32, threads: int | None = None) -> None:
        """`threads` is for the CPU; the cores of this process by default.

        Raises:
            MeasurementError: there is no such device.
        """
        if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
            raise MeasurementError(f"PyTorch cannot measure on {device!r} here; use cpu, or a machine with that device")
        self.device, self.dtype, self.threads = device, dtype, threads or default_threads()
        self.on_gpu = device == "cuda"

    def key(self) -> dict[str, str]:
        """What a latency depends on; records with different ones are never mixed."""
        return {
            "device": torch.cuda.get_device_name() if self.on_gpu else processor(),
            "runtime": f"torch {torch.__version__} {'cuda graphs' if self.on_gpu else platform.machine()}",
            "precision": _PRECISIONS.get(self.dtype, str(self.dtype).removeprefix("torch.")),
            "threads": "one stream" if self.on_gpu else str(self.threads),
            "power_mode": power_mode(gpu=find_gpu() if self.on_gpu else None),
        }

    def load(self, module: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
        """A callable that makes one complete, synchronised inference; inputs and outputs stay on the device.

        The module is moved to the device and precision.

        Raises:
            MeasuringFailed: the module cannot be run, or captured as a CUDA graph.
        """
        moved = module.to(self.device, self.dtype).eval()
        given = {name: self._moved(tensor) for name, tensor in inputs.items()}
        try:
            return _captured(moved, given) if self.on_gpu else lambda: moved(**given)
        except Exception as error:  # a capture fails with errors of many kinds
            raise MeasuringFailed(
                f"{type(module).__name__} cannot be captured as a CUDA graph ({first_line(error)}); measure its export"
            ) from error

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype) if tensor.is_floating_point() else tensor.to(self.device)


def measure_modules(
    runtime: TorchRuntime,
    modules: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    workload: Workload,
    *,
    sentinel: str,
    seconds: float,
    least_rounds: int = 10,
    seed: int = 0,
    on_round: Callable[[float], None] = lambda share: None,
) -> dict[str, Measurement]:
    """Measure modules interleaved, in one sitting: this process. Call it from two, join what they say.

    Args:
        modules: name to module; the `sentinel` is one of them.
        inputs: the keyword arguments of every module.
        seconds: time to spend after warm-up; at least `least_rounds` rounds are made.

    Raises:
        MeasurementError: a module cannot be run.
    """
    try:
        with torch.inference_mode(), _threads(runtime.threads):
            calls = {name: runtime.load(module, inputs) for name, module in modules.items()}
            taken = measure(
                calls, sentinel=sentinel, seconds=seconds, least_rounds=least_rounds, seed=seed, on_round=on_round
            )
            joules: dict[str, float] = {}
            with energy_meter(runtime.on_gpu) as meter:
                if meter is not None:
                    joules = joules_per_inference(meter, calls, seconds / len(calls) / 2, seed)
    except MeasuringFailed as error:
        raise MeasurementError(str(error)) from error
    return {
        name: Measurement(
            tuple(samples.samples_ms),
            workload,
            tuple(samples.sentinel_ms),
            joules=(joules[name],) if name in joules else (),
        )
        for name, samples in taken.items()
    }


def _captured(module: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
    """Replay of the module's CUDA graph, waited for. Its outputs stay where the capture wrote them."""
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_SIDE_STREAM_RUNS):
            module(**inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = module(**inputs)

    def run() -> object:
        graph.replay()
        torch.cuda.synchronize()
        return outputs

    return run


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
