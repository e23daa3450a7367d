"""What is known about architectures of one parent on one data set, kept for every later search and shared by all."""

from pathlib import Path

from nas.quality.evaluations.base import Evaluations, Key
from nas.quality.evaluations.file import FileEvaluations

__all__ = ["Evaluations", "FileEvaluations", "Key", "open_evaluations"]


def open_evaluations(path: Path, content: str, storage: str | None) -> Evaluations:
    """The evaluations of one content: beside the studies where those are shared between machines, else in a file.

    Args:
        path: the file, in the cache of this machine.
        content: names weights, data and metric.
        storage: URL of the study's database; None and SQLite are at home on this machine.

    Raises:
        UsageError, MissingExtra, StorageUnavailable: a storage that cannot be opened.
    """
    if storage is None or storage.startswith("sqlite"):
        return FileEvaluations(path, content)
    from nas.quality.evaluations.stored import StoredEvaluations
    from nas.storage.open_storage import open_storage

    return StoredEvaluations(open_storage(storage), content)
