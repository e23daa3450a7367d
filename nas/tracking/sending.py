"""Writes a record to MLflow so that it is there once, however often it is sent and wherever sending broke off."""

from typing import Any

from nas.tracking.record import FEASIBLE, CandidateRun, Curves, Record, SearchRun
from nas.tracking.server import list_runs

RECORD = "nas.record"
FINISHED = "FINISHED"
_LONGEST_TAG = 7900  # MLflow refuses tags above 8000 characters
_MOST_POINTS = 1000  # of metrics that MLflow takes at once
_PARENT, _NAME, _HASH, _TYPE = "mlflow.parentRunId", "mlflow.runName", "nas.arch_hash", "mlflow.runType"


def open_run(client: Any, experiment_id: str, record: Record) -> str:
    """The run of the search, under which the candidates hang: the one an earlier attempt made, or a new one."""
    runs = list_runs(client, experiment_id, f"tags.`{RECORD}` = '{record.id}'")
    usable = [run for run in runs if _agrees(run, record.run)]
    for run in runs:
        if run not in usable[:1]:  # a request that was repeated, or of a search that has changed since
            _delete(client, experiment_id, run.info.run_id)
    if usable:
        return str(usable[0].info.run_id)
    tags = {
        **_build_identity(record.run),
        **{key: value[:_LONGEST_TAG] for key, value in record.run.tags.items()},
        RECORD: record.id,
        "mlflow.note.content": record.run.note[:_LONGEST_TAG],
        _NAME: f"{record.run.verb} · {record.run.model} · {record.run.target} · {record.run.budget}",
    }
    return str(client.create_run(experiment_id, start_time=record.created_ms, tags=tags).info.run_id)


def fill(client: Any, experiment_id: str, run_id: str, record: Record) -> None:
    """Everything that hangs on the search's run; what is there already is left alone."""
    run = record.run
    if client.get_run(run_id).info.status == FINISHED:
        return
    _log_values(client, run_id, run.params, run.metrics, record.created_ms)
    _log_curves(client, run_id, run.curves, record.created_ms)
    _log_data(client, run_id, run)
    _log_candidates(client, experiment_id, run_id, record)
    # Artifacts come last: where only they fail, the candidates can still be compared.
    client.log_dict(run_id, {c.digest: c.architecture for c in run.candidates}, "architectures.json")
    for path in run.files:
        client.log_artifact(run_id, str(path))
    for name, folder in run.folders.items():
        client.log_artifacts(run_id, str(folder), artifact_path=name)
    client.set_terminated(run_id)


def _agrees(logged: Any, run: SearchRun) -> bool:
    """Whether its parameters, which MLflow never changes, are those of the record as far as they were sent."""
    return all(logged.data.params.get(key, str(value)) == str(value) for key, value in run.params.items())


def _delete(client: Any, experiment_id: str, run_id: str) -> None:
    for child in list_runs(client, experiment_id, f"tags.`{_PARENT}` = '{run_id}'"):
        client.delete_run(child.info.run_id)
    client.delete_run(run_id)


def _build_identity(run: SearchRun) -> dict[str, str]:
    return {
        "nas.target": run.target,
        "nas.budget": run.budget,
        "nas.base_model": run.model,
        **{f"nas.data.{split}": digest for split, digest in run.data.items()},
        "mlflow.source.name": f"nas {run.verb}",
    }


def _log_candidates(client: Any, experiment_id: str, parent: str, record: Record) -> None:
    """One run for each; of an earlier attempt those that are complete stay, the others are completed."""
    there: dict[tuple[str, str], Any] = {}
    for run in list_runs(client, experiment_id, f"tags.`{_PARENT}` = '{parent}'"):
        key = run.data.tags[_NAME], run.data.tags[_HASH]
        if key in there:  # the request that made it was repeated
            client.delete_run(run.info.run_id)
        there.setdefault(key, run)
    for candidate in record.run.candidates:
        run = there.pop((candidate.name, candidate.digest), None)
        if run is None or run.info.status != FINISHED:
            _log_candidate(client, experiment_id, parent, record, candidate, run and run.info.run_id)
    for run in there.values():  # of a search that has been repeated since
        client.delete_run(run.info.run_id)


def _log_candidate(
    client: Any, experiment_id: str, parent: str, record: Record, candidate: CandidateRun, run_id: str | None
) -> None:
    tags = {
        _PARENT: parent,
        _TYPE: "evaluation",  # MLflow's page unfolds what such runs belong to
        _NAME: candidate.name,
        **_build_identity(record.run),
        _HASH: candidate.digest,
        "nas.method": candidate.method,
        "nas.feasible": str(candidate.feasible).lower(),
        "nas.pareto": str(candidate.pareto).lower(),
        # Words are tags: as parameters they would be an axis of the compare view that nobody can read.
        "nas.blocks": candidate.words[:_LONGEST_TAG],
    }
    if run_id is None:
        run_id = client.create_run(experiment_id, start_time=record.created_ms, tags=tags).info.run_id
    metrics = {**candidate.metrics, FEASIBLE: float(candidate.feasible)}
    _log_values(client, run_id, candidate.params, metrics, record.created_ms)
    _log_curves(client, run_id, candidate.curves, record.created_ms)
    client.set_terminated(run_id)


def _log_values(client: Any, run_id: str, params: dict[str, Any], metrics: dict[str, float], at_ms: int) -> None:
    """Of the record's time, so that a metric that is sent again is the same point of its history."""
    from mlflow.entities import Metric, Param

    client.log_batch(
        run_id,
        metrics=[Metric(key, float(value), at_ms, 0) for key, value in metrics.items()],
        params=[Param(key, str(value)) for key, value in params.items()],
    )


def _log_curves(client: Any, run_id: str, curves: Curves, at_ms: int) -> None:
    """Metrics by step, of the record's time as the others."""
    from mlflow.entities import Metric

    points = [Metric(key, float(value), at_ms, step) for key, curve in curves.items() for step, value in curve]
    for begin in range(0, len(points), _MOST_POINTS):
        client.log_batch(run_id, metrics=points[begin : begin + _MOST_POINTS])


def _log_data(client: Any, run_id: str, run: SearchRun) -> None:
    """The splits as inputs of the run: names and digests, none of the data."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(f"{run.model} {split}", digest, source_type="local", source="{}"),
            [InputTag("mlflow.data.context", split)],
        )
        for split, digest in run.data.items()
    ]
    if inputs:
        client.log_inputs(run_id, inputs)
