"""Profiling a parent on this machine: one export, a small design of variants, measured by the runner of a kit."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from latency_models.measurement_design import choose_schedules, design_measurements
from latency_models.profile import Profile, Record
from latency_models.run_plan import SESSIONS, measure_files, run_folder, write_folder
from latency_models.runner.plan import MODELS
from latency_models.runtime_ort import PRECISION
from latency_models.shape import ModelShape
from latency_models.targets import HOST
from latency_models.terms import Terms
from latency_models.workload import Workload
from nas.export.exported_graphs import Graphs
from nas.export.onnx_export import make_workload_inputs
from nas.export.shared_weights import SharedWeights
from nas.parent.parent import ParentModel
from nas.profiling.effort import Effort
from search_spaces.architecture import Architecture
from search_spaces.space import Space

SECONDS = 20.0
WEIGHTS = "weights.data"  # of all variants of a parent, once, beside their graphs


def profile_host(
    parent: ParentModel,
    graphs: Graphs,
    workload: Workload,
    effort: Effort,
    *,
    on_round: Callable[[float], None] = lambda share: None,
    space: Space | None = None,
) -> Profile:
    """Measure the design of a parent in ONNX Runtime on this machine.

    Args:
        graphs: the parent's exported file for the workload's phase, or its file for each token schedule.
        on_round: called with the share that is done.
        space: whose token schedules are measured too.

    Raises:
        MeasurementError: a file that does not run.
        ExportError: a token schedule that cannot be exported.
    """
    with tempfile.TemporaryDirectory(prefix="nas-") as name:
        write_plan(
            Path(name), target=HOST, precision=PRECISION, digest=parent.digest, shape=parent.shape, workload=workload,
            graph=graphs, architectures=plan_measurements(parent.shape, workload, space),
            inputs=make_workload_inputs(parent.model, workload), effort=effort,
        )  # fmt: skip
        return Profile.load(run_folder(Path(name), on_round))


def measure_architectures(
    model: Any,
    graph: Graphs,
    architectures: list[Architecture],
    workload: Workload,
    effort: Effort,
    *,
    seed: int = 0,
    on_round: Callable[[float], None] = lambda share: None,
) -> tuple[Record, ...]:
    """Measure architectures of one parent interleaved with it, from files derived from its export.

    Args:
        graph: the parent's exported file for the workload's phase, or its file for each token schedule.
        on_round: called with the share that is done.

    Returns:
        One record each, the parent's first.

    Raises:
        MeasurementError: a file that does not run.
    """
    chosen = _put_parent_first(graph, architectures)
    with tempfile.TemporaryDirectory(prefix="nas-") as name:
        files = derive_files(graph, chosen, Path(name))
        inputs = make_workload_inputs(model, workload, seed)
        measured = measure_files(
            files, inputs, workload, sentinel=chosen[0].digest, seconds=effort.seconds, min_rounds=effort.min_rounds,
            limit_s=effort.limit_s, weight_bytes=graph.weight_bytes, on_round=on_round,
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
    graph: Graphs,
    architectures: Sequence[Architecture],
    inputs: Mapping[str, np.ndarray],
    effort: Effort,
    sessions: int = SESSIONS,
    threads: int | None = None,
) -> None:
    """Write the folder that a device is measured with: plan, inputs, a graph for each architecture, the runner.

    The parent is the sentinel, whether it is among the architectures or not. All graphs share one file of weights.

    Args:
        digest: names the parent's weights.
        graph: the parent's exported file for the workload's phase, or its file for each token schedule.
        inputs: input name to array, for the workload.
        threads: intra-op threads; None for the cores that the runner finds.
    """
    chosen = _put_parent_first(graph, architectures)
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
        "workload": str(workload), "sentinel": chosen[0].digest, "seconds": effort.seconds, "sittings": sessions,
        "threads": threads, "least_rounds": effort.min_rounds, "limit_s": effort.limit_s, "candidates": candidates,
    }  # fmt: skip
    write_folder(folder, plan, inputs)


def derive_files(graphs: Graphs, architectures: Sequence[Architecture], folder: Path) -> dict[str, Path]:
    """Write a graph for each architecture, named by its digest, all reading one file of weights beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).unlink(missing_ok=True)  # it is appended to
    shared = SharedWeights(WEIGHTS, folder=folder)
    files: dict[str, Path] = {}

    def name_export(architecture: Architecture) -> str:
        exported = graphs.find_exported(architecture)
        return f"{exported.tokens} {exported.tokens.reduction} {exported.digest}"

    for _, group in groupby(sorted(architectures, key=name_export), key=name_export):
        members = list(group)
        graph = graphs.get_graph(members[0])
        sharing = graph.rewrite(shared.move)
        files |= {each.digest: sharing.derive(each, folder / f"{each.digest}.onnx") for each in members}
    return files


def plan_measurements(
    shape: ModelShape, workload: Workload, space: Space | None = None, seed: int = 0
) -> list[Architecture]:
    """What is measured to fit the latency terms of a space: with token schedules and levels of units if it has any."""
    terms = Terms.of_space(shape, workload, space)
    schedules = choose_schedules(space, terms.compute_row, seed) if space is not None and terms.tokens else ()
    return design_measurements(shape.depth, seed, row=terms.compute_row, schedules=schedules, space=space)


def _put_parent_first(graph: Graphs, architectures: Sequence[Architecture]) -> list[Architecture]:
    return list(dict.fromkeys([Architecture.parent(graph.anatomy.depth), *architectures]))
