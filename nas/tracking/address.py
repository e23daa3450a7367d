"""Where MLflow is: from what a person gave to what may be shown."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

ARTIFACTS = "mlartifacts"
HIDDEN = "***"
_DATABASES = ("postgresql", "mysql", "mssql")
_SECRET = re.compile(r"([?&][^=&]*(?:pass|pwd|token|secret|key)[^=&]*=)[^&#]*", re.IGNORECASE)


def tracking_uri(given: str | None, out: Path) -> str:
    """Where to log: what was given, else MLFLOW_TRACKING_URI, else a database in the result folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(out / 'mlflow.db').resolve()}"


def without_password(uri: str) -> str:
    """The same URI with stars for its password; it is printed and kept in files that people share."""
    uri = _SECRET.sub(rf"\1{HIDDEN}", uri)
    password = password_of(uri)
    if not password:
        return uri
    parts = urlsplit(uri)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{HIDDEN}@{host}"))


def without_passwords(text: str, uri: str) -> str:
    """A message of a library about `uri`, with what must not be shown taken out of it."""
    text = text.replace(uri, without_password(uri))
    for secret in (password_of(uri), *(found[0].partition("=")[2] for found in _SECRET.finditer(uri))):
        text = text.replace(secret, HIDDEN) if secret else text
    return text


def password_of(uri: str) -> str:
    """The password between user and host, as it is written; empty where there is none or the URI cannot be read."""
    try:
        user, _, _ = urlsplit(uri).netloc.rpartition("@")
    except ValueError:
        return ""
    return user.partition(":")[2]


def artifact_location(uri: str, out: Path) -> str | None:
    """Beside the database: MLflow alone would use the current folder. A server decides for itself."""
    parts = urlsplit(uri)
    if parts.scheme == "sqlite":
        return (Path(parts.path[1:]).resolve().parent / ARTIFACTS).as_uri()
    return (out / ARTIFACTS).resolve().as_uri() if parts.scheme.startswith(_DATABASES) else None
