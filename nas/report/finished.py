"""A finished search as its result folder tells it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.request.search_request import SearchRequest
from nas.results.certificate import Certificate, compute_sha256
from nas.storage.result_folder import read_result, resume_command
from search_spaces.errors import NasError, UsageError

CANDIDATES, REDUNDANCY, PARETO = "candidates.json", "redundancy.json", "pareto.png"


@dataclass(frozen=True)
class WinnerFile:
    """A file to deploy: its size in bytes and the digest of its content."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Finished:
    """What a result folder holds. What an older or smaller folder does not have is None."""

    folder: Path
    result: dict[str, Any]
    request: SearchRequest | None
    certificate: Certificate | None
    redundancy: dict[str, Any] | None
    candidates: dict[str, Any] | None
    pareto: bytes | None  # the picture, PNG
    files: tuple[WinnerFile, ...]


def read_finished(folder: Path) -> Finished:
    """Read a result folder.

    Raises:
        UsageError: it is none of a finished search, or of another version.
    """
    result = read_result(folder)
    pareto, winner = folder / PARETO, folder / "winner"
    kept = sorted(path for path in winner.iterdir() if path.is_file()) if winner.is_dir() else []
    return Finished(
        folder,
        result,
        _read_request(folder),
        _read_certificate(winner / "certificate.json"),
        _read_document(folder / REDUNDANCY),
        _read_document(folder / CANDIDATES),
        pareto.read_bytes() if pareto.is_file() else None,
        tuple(WinnerFile(path.name, path.stat().st_size, compute_sha256(path)) for path in kept),
    )


def _read_document(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}); continue with: {resume_command(path.parent)}") from None


def _read_request(folder: Path) -> SearchRequest | None:
    """None for one of another version: the page then does not say how to repeat the search."""
    try:
        return SearchRequest.load(folder)
    except NasError:
        return None


def _read_certificate(path: Path) -> Certificate | None:
    """None where none was written, or one that does not say what its samples say."""
    try:
        return Certificate.load(path)
    except NasError:
        return None
