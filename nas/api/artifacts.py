"""The files of a result folder, and nothing outside it."""

import os
from datetime import UTC, datetime
from pathlib import Path

from nas.api.errors import make_unknown
from nas.api.schemas import ArtifactView
from nas.storage.result_folder import REQUEST

_MAX_FILES = 5000  # files that are listed


def list_artifacts(folder: Path) -> list[ArtifactView]:
    """The plain files in a folder and below, by name; links are not followed and not listed."""
    views: list[ArtifactView] = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(parent) / name
            if path.is_symlink() or not path.is_file() or _is_private(path.relative_to(folder)):
                continue
            try:
                stat = path.stat()
            except FileNotFoundError:  # the search is at work
                continue
            modified = datetime.fromtimestamp(stat.st_mtime, UTC)
            views.append(
                ArtifactView(name=path.relative_to(folder).as_posix(), bytes=stat.st_size, modified=modified)
            )  # fmt: skip
        if len(views) >= _MAX_FILES:
            break
    return views[:_MAX_FILES]


def find_artifact(folder: Path, name: str) -> Path:
    """A file of a folder.

    Raises:
        Refusal: there is none of that name, or it leads out of the folder.
    """
    try:
        home = folder.resolve(strict=True)
        path = (home / name).resolve(strict=True)
        if path.is_relative_to(home) and path.is_file() and not _is_private(path.relative_to(home)):
            return path
    except (OSError, ValueError, RuntimeError):  # nothing there, a name that is none, a loop of links
        pass
    raise make_unknown(f"artifact {name[:80]!r}")


def _is_private(name: Path) -> bool:
    """The request may hold the operator's database with its password; what begins with a dot is the program's own."""
    return name == Path(REQUEST) or any(part.startswith(".") for part in name.parts)
