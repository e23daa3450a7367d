"""Which numbers of tokens take as long on this machine: measured once for a model and workload, then kept.

The parent runs on ever fewer tokens, side by side. Where nothing was measured counts go in the target's usual tiles.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from latency_models.measurement import Measurement
from latency_models.runner.failure import MeasuringFailed
from latency_models.runner.measure import measure
from latency_models.runtime_ort import count_default_threads, open_session, read_environment
from latency_models.staircase import ACCELERATOR_TILE, CPU_TILE, Staircase, build_measured_staircase
from latency_models.targets import Target
from latency_models.workload import Phase, Workload
from nas.export.onnx_export import make_workload_inputs
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel
from nas.profiling.effort import Effort
from nas.profiling.host import measure_architectures
from nas.progress import Progress
from nas.storage.cache_folder import format_for_file
from pruning.anatomy.part import is_vision_language
from search_spaces.architecture import Architecture
from search_spaces.errors import MeasurementError
from search_spaces.level import THOUSAND
from search_spaces.schedule import Reduction, Schedule, Scorer, Stage

SECONDS = 20.0
MIN_ROUNDS = 20
TILES = 3  # a sequence of fewer tiles than this is not rounded to them
MAX_COUNTS = 24  # of tokens, that are measured of a text
_COUNTS = 8  # of images, where each needs an export
_SCHEMA = 1


def load_steps(parent: ParentModel, target: Target, workload: Workload) -> Staircase:
    """The steps that were measured on this machine as it is today; else the target's usual tile."""
    usual = assume_steps(target, workload)
    return (_read_kept(parent, workload) or usual) if target.is_host else usual


def assume_steps(target: Target, workload: Workload) -> Staircase:
    """Multiples of a tile, where a sequence has room for a few of them."""
    tile = CPU_TILE if target.is_host else ACCELERATOR_TILE
    return Staircase(tile=tile if workload.sequence >= TILES * tile else 1)


def measure_steps(export: ParentExport, target: Target, workload: Workload, progress: Progress) -> Staircase:
    """Measure the steps of a model on this machine and keep them; the usual ones where there is nothing to measure.

    Those are sequences of few tiles, and prompts with images, whose number of tokens no file leaves open.

    Raises:
        ExportError: a file that takes fewer tokens cannot be made.
        MeasurementError: a file does not run.
    """
    parent, usual = export.parent, assume_steps(target, workload)
    if not target.is_host or usual.tile == 1 or is_vision_language(parent.model):
        return usual
    with progress.open_stage("measuring latency plateaus over token counts"):
        if parent.shape.tokens is not None:
            measured = measure_image_counts(export, workload)
        else:
            measured = measure_counts(export, workload, _list_tiles(workload, usual.tile))
    steps = build_measured_staircase(measured, usual.tile)
    _keep(parent, workload, steps, measured)
    progress.show_message(describe_steps(steps))
    return steps


def measure_counts(
    export: ParentExport, workload: Workload, counts: Sequence[int], seconds: float = SECONDS
) -> dict[int, Measurement]:
    """Of a model whose file takes sequences of any length: number of tokens to what was measured of it.

    All of them are interleaved in this process with the whole sequence as sentinel.

    Args:
        export: of the workload's phase, which is not `decode`.
        counts: tokens of a sequence, at most the workload's; that one is measured too.

    Raises:
        MeasurementError: the file cannot be run on one of them.
    """
    assert workload.phase is not Phase.DECODE, "decode makes one token at a time"
    session, model = open_session(export.path, count_default_threads()), export.parent.model
    wanted = {node.name for node in session.get_inputs()}
    loads = {count: replace(workload, sequence=count) for count in {*counts, workload.sequence}}
    calls = {}
    for count, load in loads.items():
        feed = {name: array for name, array in make_workload_inputs(model, load).items() if name in wanted}
        calls[str(count)] = lambda feed=feed: session.run(None, feed)
    try:
        taken = measure(calls, sentinel=str(workload.sequence), seconds=seconds, min_rounds=MIN_ROUNDS)
    except MeasuringFailed as error:
        raise MeasurementError(str(error)) from error
    return {
        count: Measurement(tuple(taken[str(count)].samples_ms), load, tuple(taken[str(count)].sentinel_ms))
        for count, load in loads.items()
    }


def measure_image_counts(export: ParentExport, workload: Workload, seconds: float = SECONDS) -> dict[int, Measurement]:
    """Of a model whose number of tokens is fixed: exports that drop tokens before its first block.

    The norm of the states chooses, which costs next to nothing; counts are even parts of the droppable tokens.

    Raises:
        ExportError: a schedule cannot be exported.
        MeasurementError: a file does not run.
    """
    shape, parent = export.parent.shape, Architecture.parent(export.parent.anatomy.depth)
    droppable = shape.count_droppable(workload.sequence)
    others = workload.sequence - droppable
    by_norm = Reduction(Scorer.NORM)
    stages = (Stage(0, part * THOUSAND // _COUNTS) for part in range(1, _COUNTS))
    reduced = {
        int(stage.count_kept(droppable)) + others: parent.replace_tokens(Schedule((stage,), by_norm))
        for stage in stages
    }
    records = measure_architectures(
        export.parent.model, export.graphs, list(reduced.values()), workload, Effort(seconds)
    )
    measured = {record.architecture: record.measurement for record in records}
    counted = {count: measured[architecture] for count, architecture in reduced.items()}
    return counted | {workload.sequence: measured[parent]}


def describe_steps(steps: Staircase) -> str:
    """What a person reads of them."""
    if not steps.tops:
        return f"token counts: noise hides the latency plateaus; multiples of {steps.tile} are used"
    wide = [f"{low} to {top}" for low, top in zip(steps.lows, steps.tops, strict=True) if low < top]
    summary = f"equally long: {', '.join(wide)}" if wide else "each takes less time than the next larger one"
    return f"token counts, {len(steps.tops)} plateaus: {summary}"


def _list_tiles(workload: Workload, tile: int) -> list[int]:
    """Multiples of the tile up to the whole sequence, evenly spaced, not more than are measured."""
    every = workload.sequence // tile
    apart = -(-every // MAX_COUNTS) * tile
    return list(range(apart, workload.sequence + 1, apart))


def _get_path(parent: ParentModel, workload: Workload) -> Path:
    return parent.cache / f"steps-{format_for_file(str(workload))}.json"


def _keep(parent: ParentModel, workload: Workload, steps: Staircase, measured: Mapping[int, Measurement]) -> None:
    document = {
        "schema_version": _SCHEMA,
        "key": read_environment(count_default_threads()),
        "steps": asdict(steps),
        "ratios": {str(count): round(one.compute_ratio(), 5) for count, one in sorted(measured.items())},
    }
    path = _get_path(parent, workload)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(document, indent=1) + "\n")
    draft.replace(path)


def _read_kept(parent: ParentModel, workload: Workload) -> Staircase | None:
    """What was kept, if it was measured under today's key; None also where the file cannot be read."""
    try:
        document = json.loads(_get_path(parent, workload).read_text())
        steps = document["steps"]
        read = Staircase(tuple(map(int, steps["tops"])), tuple(map(int, steps["lows"])), int(steps["tile"]))
    except (OSError, KeyError, TypeError, ValueError):
        return None
    today = document.get("schema_version") == _SCHEMA and document.get("key") == read_environment(
        count_default_threads()
    )
    return read if today else None
