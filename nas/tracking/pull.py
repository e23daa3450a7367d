"""Fetching a winner's folder from MLflow: the champion of a registered model, one of its versions, or that of a run."""

import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.storage.redact import remove_password, remove_secrets
from nas.tracking.registry import CHAMPION, FOLDER
from nas.tracking.server import FIRST, GONE, connect, limit_patience
from search_spaces.architecture import Architecture
from search_spaces.errors import NasError, TrackingError, UsageError

_RUN = re.compile(r"[0-9a-f]{32}")
_VERSION = re.compile(r"(?P<name>.+)/(?P<version>\d+)")
_ARCHITECTURE, _HASH = "architecture.json", "nas.arch_hash"
_NONE_SUCH = (GONE, "INVALID_PARAMETER_VALUE")  # the second of an alias
_SHOWN = 5  # names of other models


@dataclass(frozen=True)
class PulledWinner:
    """A winner's folder that was fetched.

    Attributes:
        model, version: of the registry; None where a run was asked for.
        verdict: what the search said of it; empty where a run was asked for.

    Example:
        >>> pull_winner("python-lm_host_0.6x", "http://mlflow:5000", Path("winner")).version
        '3'
    """

    folder: Path
    run_id: str
    model: str | None = None
    version: str | None = None
    verdict: str = ""


def pull_winner(asked: str, uri: str, out: Path) -> PulledWinner:
    """Fetch a winner; its folder is complete, or not there.

    Args:
        asked: a registered model (its champion), `NAME@ALIAS`, `NAME/VERSION`, or the id of a run.
        uri: of MLflow.
        out: the folder to make.

    Raises:
        UsageError: the folder is there already, or there is no such model, version or run.
        TrackingError: the server does not answer, or gives files that are not those of the winner.
    """
    if out.exists():
        raise UsageError(f"--out {out} is there already; give another folder, or remove it")
    client = connect(uri)
    try:
        with limit_patience(FIRST):
            version = None if _RUN.fullmatch(asked) else _find_version(client, asked)
            run_id = asked if version is None else str(version.run_id)
            client.get_run(run_id)  # says so where there is none
        _download(client, run_id, None if version is None else version.tags.get(_HASH), out)
    except NasError:
        raise
    except Exception as error:  # a server fails in many ways
        reason = remove_secrets((str(error).strip().splitlines() or [type(error).__name__])[0], uri)[:200]
        where = f"{asked!r} cannot be fetched from {remove_password(uri)} ({reason})"
        if getattr(error, "error_code", None) in _NONE_SUCH:
            raise UsageError(f"{where}; {_list_models(client)}") from None
        raise TrackingError(f"{where}; give the right --tracking-uri, or try again later") from None
    if version is None:
        return PulledWinner(out, run_id)
    return PulledWinner(out, run_id, version.name, str(version.version), version.tags.get("nas.verdict", ""))


def _find_version(client: Any, asked: str) -> Any:
    numbered = _VERSION.fullmatch(asked)
    if numbered is not None:
        return client.get_model_version(numbered["name"], numbered["version"])
    name, _, alias = asked.partition("@")
    return client.get_model_version_by_alias(name, alias or CHAMPION)


def _list_models(client: Any) -> str:
    names = [each.name for each in client.search_registered_models(max_results=_SHOWN)]
    return f"registered there are {', '.join(names)}" if names else "no model is registered there"


def _download(client: Any, run_id: str, digest: str | None, out: Path) -> None:
    """Put the files into place once all of them are there.

    Args:
        digest: of the architecture, where the registry knows it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".pull-") as draft:
        folder = Path(client.download_artifacts(run_id, FOLDER, draft))
        found = _read_digest(folder / _ARCHITECTURE)
        if found is None or digest not in (None, found):
            raise TrackingError(
                f"run {run_id} has no {_ARCHITECTURE} of its winner among its files; send the search again: nas track"
            )
        shutil.move(folder, out)


def _read_digest(path: Path) -> str | None:
    try:
        return Architecture.from_json(json.loads(path.read_text())).digest
    except (OSError, ValueError, NasError):
        return None
