"""Every search in MLflow: a parent run for the search, a child run per candidate, flat keys that compare.

A tracker that cannot be reached never stops a search: it is said once, and the result folder has everything anyway.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

EXPERIMENT = "nas · {model} · {target}"
ARTIFACTS = "mlartifacts"
_DATABASES = ("postgresql", "mysql", "mssql")
_LONGEST_TAG = 7900  # MLflow refuses tags above 8000 characters
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


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
        `tracking_uri` (a password in it hidden), `experiment` and `run_id`; and a `problem` where logging failed:
        before the search's run existed (`run_id` None) or after, when that run is marked as failed.
    """
    experiment = EXPERIMENT.format(model=run.model, target=run.target.replace("/", "-"))
    where: dict[str, Any] = {"tracking_uri": without_password(uri), "experiment": experiment, "run_id": None}
    try:
        client = _client(uri)
        experiment_id = _experiment(client, experiment, uri, out)
        where["run_id"] = _open(client, experiment_id, run)
        _fill(client, experiment_id, where["run_id"], run)
    except Exception as error:  # a tracking server fails in many ways, and none is worth a lost search
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        where["problem"] = f"not logged to MLflow: {reason.replace(uri, where['tracking_uri'])}"
        if where["run_id"] is not None:
            where["problem"] = where["problem"].replace("not logged", "not completely logged")
            with suppress(Exception):  # the server that just failed is asked
                client.set_terminated(where["run_id"], status="FAILED")
    return where


def without_password(uri: str) -> str:
    """The same URI with stars for its password; it is printed and kept in files that people share."""
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import logging

    from mlflow.tracking import MlflowClient

    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):  # the import sets their levels
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


@contextmanager
def _impatient() -> Iterator[None]:
    """Give up on a server after seconds: MLflow's own retries take four minutes. What the user set stays."""
    mine = {key: value for key, value in _IMPATIENT.items() if key not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for key in mine:
            os.environ.pop(key, None)


def _experiment(client: Any, name: str, uri: str, out: Path) -> str:
    with _impatient():  # the first request finds out whether anybody answers
        found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=_artifact_location(uri, out)))


def _artifact_location(uri: str, out: Path) -> str | None:
    """Beside the database: MLflow alone would use the current folder. A server decides for itself."""
    parts = urlsplit(uri)
    if parts.scheme == "sqlite":
        return (Path(parts.path[1:]).resolve().parent / ARTIFACTS).as_uri()
    return (out / ARTIFACTS).resolve().as_uri() if parts.scheme.startswith(_DATABASES) else None


def _open(client: Any, experiment_id: str, run: SearchRun) -> str:
    """The run of the search, under which the candidates hang."""
    tags = {
        **_identity(run),
        "mlflow.note.content": run.note[:_LONGEST_TAG],
        "mlflow.runName": f"search · {run.model} · {run.target} · {run.budget}",
    }
    return str(client.create_run(experiment_id, tags=tags).info.run_id)


def _fill(client: Any, experiment_id: str, run_id: str, run: SearchRun) -> None:
    _log_values(client, run_id, run.params, run.metrics)
    for candidate in run.candidates:
        _log_candidate(client, experiment_id, run_id, run, candidate)
    # Artifacts come last: where only they fail, the candidates can still be compared.
    client.log_dict(run_id, {c.digest: c.architecture for c in run.candidates}, "architectures.json")
    for path in run.files:
        client.log_artifact(run_id, str(path))
    for name, folder in run.folders.items():
        client.log_artifacts(run_id, str(folder), artifact_path=name)
    client.set_terminated(run_id)


def _identity(run: SearchRun) -> dict[str, str]:
    return {
        "nas.target": run.target,
        "nas.budget": run.budget,
        "nas.base_model": run.model,
        "mlflow.source.name": "nas search",
    }


def _log_candidate(client: Any, experiment_id: str, parent: str, run: SearchRun, candidate: CandidateRun) -> None:
    tags = {
        "mlflow.parentRunId": parent,
        "mlflow.runName": candidate.name,
        **_identity(run),
        "nas.arch_hash": candidate.digest,
        "nas.method": candidate.method,
        "nas.feasible": str(candidate.feasible).lower(),
        "nas.pareto": str(candidate.pareto).lower(),
        # Words are tags: as parameters they would be an axis of the compare view that nobody can read.
        "nas.blocks": candidate.words[:_LONGEST_TAG],
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
