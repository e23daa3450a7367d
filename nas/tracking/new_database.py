"""A new MLflow database, copied from an empty one: MLflow alone makes each by all of its migrations, for seconds."""

import os
import shutil
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from nas.storage.cache_folder import get_cache_folder
from nas.storage.redact import build_sqlite_url
from nas.tracking.address import find_sqlite_file


def create_database(uri: str) -> None:
    """Make the database of a `sqlite` address where its file does not exist; leave every other address alone.

    The empty database is kept in the cache, one for each version of MLflow. Where it cannot be copied, as on a full
    disk, nothing is made: MLflow migrates by itself whatever it finds empty.
    """
    with suppress(Exception):
        file = find_sqlite_file(uri)
        if file is not None and not file.exists():
            _copy_to(file)


def _copy_to(file: Path) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}-") as folder:
        copied = shutil.copyfile(_make_empty_database(), Path(folder) / file.name)
        os.link(copied, file)  # in one step, and only where no other search was first


def _make_empty_database() -> Path:
    """The file with all of MLflow's tables and nothing in them; migrated when it is asked for first."""
    path = get_cache_folder() / f"mlflow-{version('mlflow')}.db"
    if not path.exists():
        from mlflow.db import upgrade

        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / path.name
            upgrade.callback(build_sqlite_url(draft))  # `mlflow db upgrade`
            draft.replace(path)
    return path
