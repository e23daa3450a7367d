"""Every search in MLflow: a parent run for the search, a child run per candidate, flat keys that compare.

A tracker that cannot be reached never stops a search: it is said once, and the result folder has everything anyway.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXPERIMENT = "nas · {model} · {target}"


@dataclass(frozen=True)
class CandidateRun:
    """What is logged of one candidate: flat numbers under the same keys for all, and words to find it by."""

    name: str
    method: str
    words: str
    digest: str
    architecture: dict[str, Any]
    params: dict[str, Any]
    metrics: dict[str, float]
    feasible: bool
    pareto: bool


@dataclass(frozen=True)
class SearchRun:
    """What is logged of a search."""

    model: str
    target: str
    budget: str
    note: str
    params: dict[str, Any]
    metrics: dict[str, float]
    candidates: Sequence[CandidateRun]
    files: Sequence[Path] = ()
    folders: dict[str, Path] = field(default_factory=dict)


def tracking_uri(given: str | None, out: Path) -> str:
    """Where to log: what was given, else MLFLOW_TRACKING_URI, else a database in the result folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(out / 'mlflow.db').resolve()}"


def log_search(run: SearchRun, uri: str, out: Path) -> dict[str, Any]:
    """Log a search and its candidates.

    Returns:
        `tracking_uri`, `experiment` and `run_id`; `run_id` None and a `problem` where logging failed.
    """
    experiment = EXPERIMENT.format(model=run.model, target=run.target.replace("/", "-"))
    where = {"tracking_uri": uri, "experiment": experiment, "run_id": None}
    try:
        return {**where, "run_id": _log(run, uri, experiment, out)}
    except Exception as error:  # a tracking server fails in many ways, and none is worth a lost search
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        return {**where, "problem": f"not logged to MLflow: {reason}"}


def _log(run: SearchRun, uri: str, experiment: str, out: Path) -> str:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import logging

    from mlflow.tracking import MlflowClient

    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):  # the import sets their levels
        logging.getLogger(name).setLevel(logging.ERROR)

    client = MlflowClient(tracking_uri=uri)
    experiment_id = _experiment(client, experiment, uri, out)
    tags = {
        "nas.target": run.target,
        "nas.budget": run.budget,
        "nas.base_model": run.model,
        "mlflow.note.content": run.note,
        "mlflow.runName": f"search · {run.model} · {run.target} · {run.budget}",
    }
    parent = client.create_run(experiment_id, tags=tags)
    run_id = str(parent.info.run_id)
    _log_values(client, run_id, run.params, run.metrics)
    for candidate in run.candidates:
        _log_candidate(client, experiment_id, run_id, run, candidate)
    for path in run.files:
        client.log_artifact(run_id, str(path))
    for name, folder in run.folders.items():
        client.log_artifacts(run_id, str(folder), artifact_path=name)
    client.set_terminated(run_id)
    return run_id


def _experiment(client: Any, name: str, uri: str, out: Path) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # Without a location of its own, a local store would put artifacts into the current folder.
    location = (out / "mlartifacts").resolve().as_uri() if uri.startswith("sqlite") else None
    return str(client.create_experiment(name, artifact_location=location))


def _log_candidate(client: Any, experiment_id: str, parent: str, run: SearchRun, candidate: CandidateRun) -> None:
    tags = {
        "mlflow.parentRunId": parent,
        "mlflow.runName": candidate.name,
        "nas.target": run.target,
        "nas.budget": run.budget,
        "nas.base_model": run.model,
        "nas.arch_hash": candidate.digest,
        "nas.method": candidate.method,
        "nas.feasible": str(candidate.feasible).lower(),
        "nas.pareto": str(candidate.pareto).lower(),
        # Words are tags: as parameters they would be an axis of the compare view that nobody can read.
        "nas.blocks": candidate.words[:7900],
        "nas.architecture": json.dumps(candidate.architecture)[:7900],
    }
    child = client.create_run(experiment_id, tags=tags)
    _log_values(
        client, child.info.run_id, candidate.params, {**candidate.metrics, "feasible": float(candidate.feasible)}
    )
    client.set_terminated(child.info.run_id)


def _log_values(client: Any, run_id: str, params: dict[str, Any], metrics: dict[str, float]) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
        params=[Param(key, str(value)) for key, value in params.items()],
    )
