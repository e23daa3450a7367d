"""Logging a search, at its end or later; what cannot be logged is kept."""

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from nas.storage.redact import remove_password, remove_secrets
from nas.storage.result_folder import RESULT, read_result
from nas.tracking import outbox
from nas.tracking.layout import lay_out, view_path
from nas.tracking.record import Record, SearchRun
from nas.tracking.registry import register
from nas.tracking.sending import FINISHED, fill, open_run
from nas.tracking.server import FIRST, LOST, WORKING, connect, find_experiment, limit_patience
from search_spaces.errors import TrackingError, UsageError

EXPERIMENT = "nas · {model} · {target}"
_LOCK = ".mlflow-pending.lock"
_HIDDEN = "***"  # what stands for a password


def log_search(run: SearchRun, uri: str, out: Path) -> dict[str, Any]:
    """Log a search, its candidates and its winner; until all of it has arrived the record is kept in `out`.

    Returns:
        `tracking_uri` (a password in it hidden), `experiment`, `run_id`, `page` (of the candidates, from the address
        of MLflow's page on) and, of a winner, `registered_model` (`name`,
        `version`, whether it is `champion`); and a `problem` where logging failed: before the search's run existed
        (`run_id` None) or after, when that run is marked as failed.
    """
    with _lock_folder(out):
        record = outbox.create_record(run, uri, out)
        with suppress(OSError):  # of a full disk the search itself will speak
            outbox.keep(record, out)  # first: who kills us in the middle of it loses nothing
        return _send(record, uri, out)


def send_pending(out: Path, given: str | None = None) -> dict[str, Any] | None:
    """Send what a search in `out` could not log, and note in its result where it is now.

    Args:
        given: the server; else the one it was to be logged to, or MLFLOW_TRACKING_URI where that needs a password.

    Returns:
        As `log_search`; None where nothing was pending.

    Raises:
        UsageError: the folder holds no search, the record is damaged, or its server needs a password.
    """
    if not (out / RESULT).exists() and not (out / outbox.FILE).exists():
        raise UsageError(f"{out} holds no {RESULT} and nothing to send; give the result folder of a search")
    with _lock_folder(out):
        record = outbox.find_pending(out)
        if record is None:
            return None
        sent = _send(record, given or _find_known(record.tracking_uri), out)
        _note(out, sent)
        return sent


def log_page(page: Path, out: Path, given: str | None = None) -> dict[str, Any]:
    """Add a page to the run of the search in `out`.

    Args:
        given: the server; else the one the search was logged to, or MLFLOW_TRACKING_URI where that needs a password.

    Raises:
        UsageError: the search was not logged, or its server needs a password.
        TrackingError: the server does not take it.
    """
    logged = read_result(out)["mlflow"]
    if outbox.find_pending(out) is not None or not logged.get("run_id"):
        raise UsageError(f"{out} was not logged to MLflow yet; send it first: {_build_command(out)}")
    uri = given or _find_known(logged["tracking_uri"])
    try:
        with limit_patience(FIRST):
            connect(uri).log_artifact(logged["run_id"], str(page))
    except Exception as error:
        raise TrackingError(f"{page} was not logged to {remove_password(uri)}: {_get_reason(error, uri)}") from None
    return {**logged, "tracking_uri": remove_password(uri)}


@contextmanager
def _lock_folder(out: Path) -> Iterator[None]:
    """One process sends from a folder at a time; where nothing can be locked, as on a full disk, it goes on."""
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(out / _LOCK))
        yield


def _find_known(kept: str) -> str:
    """Where it was logged; a password was not kept.

    Raises:
        UsageError: one is needed.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") if _HIDDEN in kept else kept
    if not uri:
        raise UsageError(f"{kept} needs a password, which was not kept; give --tracking-uri or set MLFLOW_TRACKING_URI")
    return uri


def _send(record: Record, uri: str, out: Path) -> dict[str, Any]:
    """Send it, and forget it once all of it has arrived."""
    run = record.run
    experiment = EXPERIMENT.format(model=run.model, target=run.target.replace("/", "-"))
    where: dict[str, Any] = {"tracking_uri": remove_password(uri), "experiment": experiment, "run_id": None}
    client, failure = None, "not logged to MLflow"
    try:
        client = connect(uri)
        experiment_id = find_experiment(client, experiment, uri, out)
        with limit_patience(WORKING):
            if run.layout is not None:
                lay_out(client, experiment_id, run.layout)
                where["page"] = view_path(experiment_id)
            where["run_id"], failure = open_run(client, experiment_id, record), "not completely logged to MLflow"
            fill(client, experiment_id, where["run_id"], record)
            if run.winner is not None:
                failure = "the winner was not registered in MLflow"
                where["registered_model"] = register(client, record.id, where["run_id"], run.winner)
        outbox.discard(out)
    except Exception as error:  # a tracking server fails in many ways, and none is worth a lost search
        where["problem"] = (
            f"{failure}: {_get_reason(error, uri)}; once that is fixed, send it with: {_build_command(out)}"
        )
        _mark_failed(client, where["run_id"])
    return where


def _build_command(out: Path) -> str:
    """What a person types to send what is pending."""
    return shlex.join(["nas", "track", str(out)])


def _get_reason(error: Exception, uri: str) -> str:
    """The first line of what a library says, without passwords."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return remove_secrets(lines[0], uri)[:200]


def _mark_failed(client: Any, run_id: str | None) -> None:
    """Tell the server that just failed that the run is not complete, if it still answers."""
    if run_id is not None:
        with suppress(Exception), limit_patience(LOST):
            if client.get_run(run_id).info.status != FINISHED:
                client.set_terminated(run_id, status="FAILED")


def _note(out: Path, sent: dict[str, Any]) -> None:
    """Write where it was logged into the search's result, where there is one."""
    path = out / RESULT
    if path.exists():
        outbox.write_json(path, {**json.loads(path.read_text()), "mlflow": sent})
