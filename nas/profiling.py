"""Profiling a parent on this machine: one export, a small design of variants, measured by the runner of a kit."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from latency_models.design import design
from latency_models.measure import LEAST_ROUNDS, SITTINGS, measure_files, run_folder, write_folder
from latency_models.measuring.plan import MODELS
from latency_models.profile import Profile, Record
from latency_models.runtime_ort import PRECISION
from latency_models.shape import ModelShape
from latency_models.targets import HOST
from latency_models.terms import Terms
from latency_models.workload import Workload
from nas.export.onnx_export import workload_inputs
from nas.export.variants import ParentGraph
from search_spaces.architecture import Architecture

SECONDS = 20.0
WEIGHTS = "weights.data"  # of all variants of a parent, once, beside their graphs


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
        graph: the parent's exported file for the workload's phase.
        on_round: called with the share that is done.

    Raises:
        MeasurementError: a file that does not run.
    """
    with tempfile.TemporaryDirectory(prefix="nas-") as name:
        write_plan(
            Path(name), target=HOST, precision=PRECISION, digest=digest, shape=shape, workload=workload, graph=graph,
            architectures=design(shape.depth, seed, row=Terms(shape, workload).row),
            inputs=workload_inputs(model, workload, seed), seconds=seconds,
        )  # fmt: skip
        return Profile.load(run_folder(Path(name), on_round))


def measure_architectures(
    model: Any,
    graph: ParentGraph,
    architectures: list[Architecture],
    workload: Workload,
    *,
    seconds: float,
    least_rounds: int = LEAST_ROUNDS,
    seed: int = 0,
    on_round: Callable[[float], None] = lambda share: None,
) -> tuple[Record, ...]:
    """Measure architectures of one parent interleaved with it, from files derived from its export.

    Args:
        graph: the parent's exported file for the workload's phase.
        seconds, least_rounds: for all sittings together, warm-up not counted.
        on_round: called with the share that is done.

    Returns:
        One record each, the parent's first.

    Raises:
        MeasurementError: a file that does not run.
    """
    chosen = _parent_first(graph, architectures)
    with tempfile.TemporaryDirectory(prefix="nas-") as name:
        files = derive_files(graph, chosen, Path(name))
        inputs = workload_inputs(model, workload, seed)
        measured = measure_files(
            files, inputs, workload, sentinel=chosen[0].digest, seconds=seconds, least_rounds=least_rounds,
            weight_bytes=graph.weight_bytes, on_round=on_round,
        )  # fmt: skip
    return tuple(Record(architecture, measured.of[architecture.digest]) for architecture in chosen)


def write_plan(
    folder: Path,
    *,
    target: str,
    precision: str,
    digest: str,
    shape: ModelShape,
    workload: Workload,
    graph: ParentGraph,
    architectures: Sequence[Architecture],
    inputs: Mapping[str, np.ndarray],
    seconds: float,
    sittings: int = SITTINGS,
    threads: int | None = None,
    least_rounds: int = LEAST_ROUNDS,
) -> None:
    """Write the folder that a device is measured with: plan, inputs, a graph for each architecture, the runner.

    The parent is the sentinel, whether it is among the architectures or not. All graphs share one file of weights.

    Args:
        digest: names the parent's weights.
        graph: the parent's exported file for the workload's phase.
        inputs: input name to array, for the workload.
        seconds, least_rounds: for all sittings together, warm-up not counted.
        threads: intra-op threads; None for the cores that the runner finds.
    """
    chosen = _parent_first(graph, architectures)
    files = derive_files(graph, chosen, folder / MODELS)
    candidates = [
        {
            "name": architecture.digest,
            "file": files[architecture.digest].relative_to(folder).as_posix(),
            "weight_bytes": graph.weight_bytes,
            "architecture": architecture.to_json(),
        }
        for architecture in chosen
    ]
    plan = {
        "target": target, "precision": precision, "model": digest, "shape": shape.to_json(),
        "workload": str(workload), "sentinel": chosen[0].digest, "seconds": seconds, "sittings": sittings,
        "threads": threads, "least_rounds": least_rounds, "candidates": candidates,
    }  # fmt: skip
    write_folder(folder, plan, inputs)


def derive_files(graph: ParentGraph, architectures: Sequence[Architecture], folder: Path) -> dict[str, Path]:
    """Write a graph for each architecture, named by its digest, all reading one file of weights beside them."""
    sharing = _share_weights(graph, folder)
    return {a.digest: sharing.derive(a, folder / f"{a.digest}.onnx") for a in architectures}


def _share_weights(graph: ParentGraph, folder: Path) -> ParentGraph:
    """The same graph with its larger weights in a file of the folder: what is derived from it only refers to them."""
    import onnx

    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).unlink(missing_ok=True)  # onnx appends to what is there
    draft, proto = folder / "parent.draft", type(graph.proto)()
    proto.CopyFrom(graph.proto)
    onnx.save(proto, str(draft), save_as_external_data=True, location=WEIGHTS)
    proto = onnx.load(str(draft), load_external_data=False)
    draft.unlink()
    return replace(graph, proto=proto)


def _parent_first(graph: ParentGraph, architectures: Sequence[Architecture]) -> list[Architecture]:
    return list(dict.fromkeys([Architecture.parent(graph.anatomy.depth), *architectures]))
