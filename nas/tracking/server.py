"""The connection to MLflow: patience in seconds, and what searches that begin at once create together."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from nas.tracking.address import find_artifact_location
from nas.tracking.new_database import create_database

EXISTS, GONE, _UNKNOWN = "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "INTERNAL_ERROR"
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)  # s
_T = TypeVar("_T")
FIRST = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # finds out if anybody answers
WORKING = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}  # with MLflow's 120 s, which uploads may need
LOST = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


def connect(uri: str) -> Any:
    """A client; the first request it makes finds out whether anybody answers."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it is our result that goes there
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import logging

    from mlflow.tracking import MlflowClient

    for name in ("alembic", "mlflow"):  # the import sets their levels
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs what it raises, with a traceback
    create_database(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def limit_patience(settings: dict[str, str]) -> Iterator[None]:
    """Give up on a server after seconds: MLflow's own retries take four minutes. What the user set stays."""
    mine = {key: value for key, value in settings.items() if key not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for key in mine:
            os.environ.pop(key, None)


def find_experiment(client: Any, name: str, uri: str, out: Path) -> str:
    """The id of the experiment; made where it is not there yet, by whoever comes first."""
    with limit_patience(FIRST):
        experiment = client.get_experiment_by_name(name)
    if experiment is None:
        made = create_unless_exists(
            lambda: client.create_experiment(name, artifact_location=find_artifact_location(uri, out))
        )
        return str(made or client.get_experiment_by_name(name).experiment_id)
    return str(experiment.experiment_id)


def create_unless_exists(create: Callable[[], Any]) -> Any:
    """What was created; None where another was first."""
    from mlflow.exceptions import MlflowException

    try:
        return create()
    except MlflowException as error:
        if error.error_code != EXISTS:
            raise
        return None


def retry_among_others(step: Callable[[], _T]) -> _T:
    """A step that the server refuses when another client takes the same one in that moment, taken again.

    It looks at what is there before it does anything, so that taking it twice is as good as once.
    """
    from mlflow.exceptions import MlflowException, RestException

    for pause in _PAUSES:
        try:
            return step()
        except MlflowException as error:
            answered = isinstance(error, RestException) or error.error_code != _UNKNOWN
            if not answered:  # it is gone, and has been waited for
                raise
            time.sleep(pause)
    return step()


def list_runs(client: Any, experiment_id: str, condition: str) -> list[Any]:
    """All active runs that meet a condition on their tags."""
    runs, token = [], None
    while True:
        page = client.search_runs([experiment_id], condition, page_token=token)
        runs += list(page)
        token = page.token
        if not token:
            return runs
