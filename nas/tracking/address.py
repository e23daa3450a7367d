"""Where MLflow is, and where it puts files."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nas.storage.redact import build_sqlite_url

ARTIFACTS = "mlartifacts"
_DATABASES = ("postgresql", "mysql", "mssql")


def get_tracking_uri(given: str | None, out: Path) -> str:
    """Where to log: what was given, else MLFLOW_TRACKING_URI, else a database in the result folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or build_sqlite_url(out / "mlflow.db")


def find_sqlite_file(uri: str) -> Path | None:
    """The file of a `sqlite` address; None for any other address."""
    parts = urlsplit(uri)
    named = parts.scheme.partition("+")[0] == "sqlite" and len(parts.path) > 1
    return Path(unquote(parts.path[1:])).resolve() if named else None


def find_artifact_location(uri: str, out: Path) -> str | None:
    """Beside the database: MLflow alone would use the current folder. A server decides for itself."""
    file = find_sqlite_file(uri)
    if file is not None:
        return (file.parent / ARTIFACTS).as_uri()
    return (out / ARTIFACTS).resolve().as_uri() if urlsplit(uri).scheme.startswith(_DATABASES) else None
