"""Measuring exported files in ONNX Runtime on this machine's CPU: interleaved, with the parent as sentinel."""

import os
import platform
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latency_models.measurement import Measurement
from latency_models.workload import Workload
from search_spaces.errors import MeasurementError

WARM_UP_RUNS = 3
LEAST_ROUNDS = 5


def environment(threads: int) -> dict[str, str]:
    """What a measurement on this machine depends on; records with different ones are never mixed."""
    import onnxruntime

    return {
        "device": _processor(),
        "runtime": f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider",
        "precision": "fp32",
        "threads": f"{threads}, no spinning",
        "power_mode": "as found",
    }


def default_threads() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_interleaved(
    files: Mapping[str, Path],
    inputs: Mapping[str, np.ndarray],
    workload: Workload,
    *,
    sentinel: str,
    seconds: float,
    threads: int | None = None,
    least_rounds: int = LEAST_ROUNDS,
    seed: int = 0,
    on_round: Callable[[float], None] = lambda share: None,
) -> dict[str, Measurement]:
    """Measure several files in one process, in random order round by round, until `seconds` have passed.

    Args:
        files: name to ONNX file; one of them is the `sentinel`, measured in every round like the others.
        inputs: input name to array; each file is given those it asks for.
        seconds: time to spend after warm-up; at least `least_rounds` rounds are made.
        threads: intra-op threads; the cores of this process by default. Inter-op is 1.
        on_round: called after each round with the share of the time that has passed.

    Raises:
        MeasurementError: when a file cannot be loaded or run.
        KeyError: when the sentinel is not among the files.
    """
    if sentinel not in files:
        raise KeyError(f"the sentinel {sentinel!r} is not among the files {sorted(files)}")
    sessions = {name: open_session(path, threads or default_threads()) for name, path in files.items()}
    calls = {name: _call(session, inputs) for name, session in sessions.items()}
    for name, call in calls.items():
        for _ in range(WARM_UP_RUNS):
            _timed(name, call)
    rng = random.Random(seed)
    samples: dict[str, list[float]] = {name: [] for name in files}
    began, rounds = time.perf_counter(), 0
    while rounds < least_rounds or time.perf_counter() - began < seconds:
        for name in rng.sample(sorted(calls), len(calls)):
            samples[name].append(_timed(name, calls[name]))
        rounds += 1
        on_round(min(1.0, (time.perf_counter() - began) / max(seconds, 1e-9)))
    reference = tuple(samples[sentinel])
    return {name: Measurement(tuple(taken), workload, reference) for name, taken in samples.items()}


def open_session(path: Path, threads: int) -> Any:
    """An ONNX Runtime session on the CPU, all optimisations on, one inter-op thread.

    Raises:
        MeasurementError: when the runtime refuses the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Several sessions live side by side while measuring: the waiting threads of one must not burn the cores of another.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises classes of its own, all unrelated
        raise MeasurementError(
            f"{path} cannot be loaded by ONNX Runtime ({_first_line(error)}); export it again"
        ) from error


def _call(session: Any, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
    wanted = {node.name: inputs[node.name] for node in session.get_inputs() if node.name in inputs}
    return lambda: session.run(None, wanted)


def _timed(name: str, call: Callable[[], object]) -> float:
    began = time.perf_counter()
    try:
        call()
    except Exception as error:
        raise MeasurementError(f"{name} cannot be run by ONNX Runtime ({_first_line(error)})") from error
    return 1e3 * (time.perf_counter() - began)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
