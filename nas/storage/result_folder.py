"""A result folder, as what comes after a search reads it: without loading the model or the libraries that made it."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from search_spaces.errors import UsageError

RESULT, REQUEST, LOCK = "result.json", "request.json", ".search.lock"
SCHEMA_VERSION = 1


def resume_command(folder: Path) -> str:
    """What a person types to go on with the search of a folder."""
    return shlex.join(["nas", "search", "--resume", str(folder)])


@contextmanager
def lock_exclusively(folder: Path) -> Iterator[None]:
    """Nobody else searches in a folder meanwhile: two drivers of one study would end each other's trials.

    Raises:
        UsageError: somebody does.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UsageError(f"{folder}: another process searches there; wait for it, or choose another --out") from None
    try:
        yield
    finally:
        lock.release()


def read_result(folder: Path) -> dict[str, Any]:
    """The result of a finished search, as `Result.to_json` wrote it.

    Raises:
        UsageError: the folder is none of a finished search, or the result is damaged or of another version.
    """
    path = folder / RESULT
    try:
        document = json.loads(path.read_text())
        version = document["schema_version"]
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(_describe_missing(folder)) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} is not a result ({error}); continue with: {resume_command(folder)}") from None
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema_version {version!r} and this nas reads {SCHEMA_VERSION}; use the nas that wrote it, "
            f"or continue with: {resume_command(folder)}"
        )
    return dict(document)


def _describe_missing(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is no folder; give the result folder of a search"
    if (folder / REQUEST).exists():
        return f"the search in {folder} is not finished; continue with: {resume_command(folder)}"
    return f"{folder} holds no {RESULT}; give the result folder of a search"
