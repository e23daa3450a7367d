"""A study as a log file on a file system that several machines share, where SQLite's locks cannot be trusted."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from nas.storage.append_log import append
from nas.storage.retry import RETRY_TIMEOUT_S, find_reason, retry_with_backoff
from search_spaces.errors import StorageUnavailable


class Log(JournalFileBackend):
    """Optuna's log file, which survives a full disk and a writer that dies in the middle of a line.

    The lock is a file that is created exclusively: atomic on local disks, on NFS from version 3 and on SMB, where
    symbolic links may be forbidden. One whose holder died is broken after half a minute.
    """

    def __init__(self, path: Path, patience_s: float = RETRY_TIMEOUT_S) -> None:
        """Create the file where there is none."""
        self._path, self._patience_s = path, patience_s
        self._guard = JournalFileOpenLock(str(path))
        super().__init__(str(path), self._guard)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, on the disk when it returns; after an error none of them is there, so it can be repeated."""
        data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()

        def attempt() -> None:
            self._guard.acquire()
            try:
                append(self._path, data, sync=True)
            finally:
                self._guard.release()

        retry_with_backoff(attempt, _passes, str(self._path), self._patience_s)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The whole records from a number on."""
        read = super().read_logs
        yield from retry_with_backoff(lambda: list(read(log_number_from)), _passes, str(self._path), self._patience_s)


def open_log(path: Path) -> JournalStorage:
    """Open or begin a log.

    Raises:
        StorageUnavailable: the file cannot be written, or is no such log.
    """
    try:
        return JournalStorage(Log(path))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise StorageUnavailable(
            f"storage {path} cannot be opened as a log of studies ({find_reason(error)}); "
            "name a file that nas or Optuna's JournalStorage wrote, or a new one in a folder that you may write to"
        ) from None


def _passes(error: Exception) -> bool:
    return isinstance(error, OSError)
