"""Measuring which numbers of tokens cost the same on this machine: the parent on ever fewer tokens, side by side."""

from collections.abc import Sequence
from dataclasses import replace

from latency_models.measurement import Measurement
from latency_models.measuring.failure import MeasuringFailed
from latency_models.measuring.protocol import measure
from latency_models.runtime_ort import default_threads, open_session
from latency_models.staircase import Staircase, measured_staircase
from latency_models.workload import Phase, Workload
from nas.export.onnx_export import workload_inputs
from nas.latency import ParentExport
from nas.profiling import measure_architectures
from search_spaces.architecture import Architecture
from search_spaces.errors import MeasurementError
from search_spaces.tokens import THOUSAND, Reduction, Schedule, Scorer, Stage

SECONDS = 20.0
LEAST_ROUNDS = 20
_COUNTS = 8  # of images, where each needs an export


def text_staircase(
    export: ParentExport, workload: Workload, counts: Sequence[int], seconds: float = SECONDS
) -> Staircase:
    """The steps of a model whose file takes sequences of any length: it is run on each number of tokens.

    Args:
        export: of the workload's phase, which is not `decode`.
        counts: tokens of a sequence, at most the workload's; that one is measured too.

    Raises:
        MeasurementError: the file cannot be run on one of them.
    """
    return measured_staircase(measured_counts(export, workload, counts, seconds))


def measured_counts(
    export: ParentExport, workload: Workload, counts: Sequence[int], seconds: float = SECONDS
) -> dict[int, Measurement]:
    """Number of tokens to what was measured of it, interleaved in this process with the whole sequence as sentinel.

    Raises:
        MeasurementError: the file cannot be run on one of them.
    """
    assert workload.phase is not Phase.DECODE, "decode makes one token at a time"
    session, model = open_session(export.path, default_threads()), export.subject.model
    wanted = {node.name for node in session.get_inputs()}
    loads = {count: replace(workload, sequence=count) for count in {*counts, workload.sequence}}
    calls = {}
    for count, load in loads.items():
        feed = {name: array for name, array in workload_inputs(model, load).items() if name in wanted}
        calls[str(count)] = lambda feed=feed: session.run(None, feed)
    try:
        taken = measure(calls, sentinel=str(workload.sequence), seconds=seconds, least_rounds=LEAST_ROUNDS)
    except MeasuringFailed as error:
        raise MeasurementError(str(error)) from error
    return {
        count: Measurement(tuple(taken[str(count)].samples_ms), load, tuple(taken[str(count)].sentinel_ms))
        for count, load in loads.items()
    }


def image_staircase(export: ParentExport, workload: Workload, seconds: float = SECONDS) -> Staircase:
    """The steps of a model whose number of tokens is fixed: exports that drop tokens before its first block.

    The norm of the states chooses, which costs next to nothing; counts are even parts of the droppable tokens.

    Raises:
        ExportError: a schedule cannot be exported.
        MeasurementError: a file does not run.
    """
    shape, parent = export.subject.shape, Architecture.parent(export.subject.anatomy.depth)
    droppable = shape.droppable_of(workload.sequence)
    others = workload.sequence - droppable
    by_norm = Reduction(Scorer.NORM)
    stages = (Stage(0, part * THOUSAND // _COUNTS) for part in range(1, _COUNTS))
    reduced = {int(stage.kept(droppable)) + others: parent.with_tokens(Schedule((stage,), by_norm)) for stage in stages}
    records = measure_architectures(
        export.subject.model, export.graphs, list(reduced.values()), workload, seconds=seconds
    )  # fmt: skip
    measured = {record.architecture: record.measurement for record in records}
    counted = {count: measured[architecture] for count, architecture in reduced.items()}
    return measured_staircase(counted | {workload.sequence: measured[parent]})
