"""Profiling a parent on this machine: one export, a small design of variants, measured interleaved."""

import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latency_models.measurement import Measurement
from latency_models.profile import Profile, Record
from latency_models.runtime_ort import default_threads, environment, measure_interleaved
from latency_models.shape import ModelShape
from latency_models.workload import Phase, Workload
from nas.export.onnx_export import workload_inputs
from nas.export.variants import ParentGraph
from search_spaces.architecture import Architecture
from search_spaces.errors import MeasurementError
from search_spaces.unit import Kind, Unit

RANDOM_PATTERNS = 8
SECONDS = 20.0
LOADED_BYTES = 4 << 30  # weights held by the sessions that are measured side by side


def design(depth: int, seed: int = 0) -> list[Architecture]:
    """What to measure so that every term can be told apart.

    The parent, the bare stem, attentions only, MLPs only, half the depth, every other unit of a kind, one unit of
    each kind by itself, and random mixtures of different sizes.
    """
    rng = random.Random(seed)
    every = {kind: [Unit(layer, kind) for layer in range(depth)] for kind in (Kind.ATTENTION, Kind.MLP)}
    attention, mlp = every[Kind.ATTENTION], every[Kind.MLP]
    half = [unit for unit in attention + mlp if unit.layer >= depth // 2]
    chosen: list[list[Unit]] = [[], attention + mlp, mlp, attention, half, attention[::2], mlp[::2]]
    chosen += [[units[depth // 2]] for units in (attention, mlp)]
    for number in range(RANDOM_PATTERNS):
        share = 0.15 + 0.6 * number / max(1, RANDOM_PATTERNS - 1)
        chosen.append([unit for unit in attention + mlp if rng.random() < share])
    return list(dict.fromkeys(Architecture(depth, frozenset(units)) for units in chosen))


def profile_host(
    model: Any,
    digest: str,
    shape: ModelShape,
    graph: ParentGraph,
    workload: Workload,
    *,
    seconds: float = SECONDS,
    seed: int = 0,
    on_round: Callable[[float], None] = lambda share: None,
) -> Profile:
    """Measure the design of a parent in ONNX Runtime on this machine.

    Args:
        model: the parent, for the inputs.
        digest: names the parent's weights.
        graph: the parent's exported file.
        workload: `forward` only: the exported file has no cache.

    Raises:
        MeasurementError: another phase, or a file that does not run.
    """
    architectures = design(shape.depth, seed)
    measured = measure_architectures(
        model, graph, architectures, workload, seconds=seconds, seed=seed, on_round=on_round
    )
    return Profile(environment(default_threads()), digest, shape, workload, measured)


def measure_architectures(
    model: Any,
    graph: ParentGraph,
    architectures: list[Architecture],
    workload: Workload,
    *,
    seconds: float,
    seed: int = 0,
    on_round: Callable[[float], None] = lambda share: None,
) -> tuple[Record, ...]:
    """Measure architectures of one parent interleaved with it, from files derived from its export.

    Large models are measured in several groups, the parent in each: what counts is the ratio to it.

    Args:
        seconds: for all groups together.
        on_round: called with the share of the time that has passed.

    Returns:
        One record each, the parent's first.

    Raises:
        MeasurementError: a phase other than `forward`, or a file that does not run.
    """
    if workload.phase is not Phase.FORWARD:
        raise MeasurementError(
            f"workload {workload} cannot be measured here: exported files have no cache; use forward:batch=N,seq=N"
        )
    parent = Architecture.parent(graph.anatomy.depth)
    others = [architecture for architecture in dict.fromkeys(architectures) if architecture != parent]
    size = max(1, LOADED_BYTES // max(1, graph.weight_bytes) - 1)
    groups = [others[first : first + size] for first in range(0, max(1, len(others)), size)]
    inputs = workload_inputs(model, workload, seed)
    records: dict[Architecture, Measurement] = {}
    for done, group in enumerate(groups):

        def on_group(share: float, done: int = done) -> None:
            on_round((done + share) / len(groups))

        measured = _measure_group(
            graph, [parent, *group], inputs, workload, seconds / len(groups), seed + done, on_group
        )
        records = measured | records  # of the parent, the first group's
    return tuple(Record(architecture, records[architecture]) for architecture in [parent, *others])


def _measure_group(
    graph: ParentGraph,
    architectures: list[Architecture],
    inputs: Mapping[str, np.ndarray],
    workload: Workload,
    seconds: float,
    seed: int,
    on_round: Callable[[float], None],
) -> dict[Architecture, Measurement]:
    """Derive, measure side by side with the first of them as the sentinel, and remove the files."""
    with tempfile.TemporaryDirectory(prefix="nas-") as folder:
        files = {a.digest: graph.derive(a, Path(folder) / f"{a.digest}.onnx") for a in architectures}
        measured = measure_interleaved(
            files, inputs, workload, sentinel=architectures[0].digest, seconds=seconds, seed=seed, on_round=on_round
        )
    return {architecture: measured[architecture.digest] for architecture in architectures}
