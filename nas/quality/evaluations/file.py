"""Evaluations in a file of the cache: for the searches of one machine, or of several that share a file system.

One JSON document per line, appended as soon as it is known, under a lock that only writers take. Nothing is ever
rewritten: readers follow the file's end, and a file of other content is left alone. A line that does not match its
digest counts as not there.
"""

import hashlib
import json
import logging
import os
from pathlib import Path

from filelock import FileLock

from nas.quality.evaluations.base import SCHEMA_VERSION, Evaluations, Key, encode_entry
from nas.quality.quality import Quality
from nas.storage.append_log import append

_LOCK_S = 10.0  # an append takes milliseconds: a lock that is held longer is stuck
_logger = logging.getLogger(__name__)


class FileEvaluations(Evaluations):
    """A file of evaluations. Where it cannot be written they stay in memory, which is said once.

    Example:
        >>> known = FileEvaluations(Path("evaluations.jsonl"), "digest of weights and data")
        >>> (architecture, 8, Precision.FP32) in known
        False
    """

    def __init__(self, path: Path, content: str) -> None:
        """Read what is there.

        Args:
            path: the file; one of its own beside it is used where that holds another content or another version.
            content: names weights, data and metric.
        """
        super().__init__()
        self._path = path
        self._header = json.dumps({"schema_version": SCHEMA_VERSION, "content": content}).encode() + b"\n"
        self._identity: tuple[int, int] | None = None  # of the file that was read up to `_end`
        self._end = 0
        self._unwritten: dict[Key, bytes] = {}
        self._look()

    def _look(self) -> None:
        lines = self._read_new_lines()
        if lines and self._end == len(lines):  # from the file's beginning
            if not lines.startswith(self._header):
                return self._look_beside()
            lines = lines[len(self._header) :]
        return self._take(map(_parse_document, lines.splitlines()), str(self._path))

    def _look_beside(self) -> None:
        """Use a file of another name: this one is of other content, or nobody can tell of which it is."""
        digest = hashlib.sha256(self._header).hexdigest()[:8]
        other = self._path.with_name(f"{self._path.stem}-{digest}{self._path.suffix}")
        _logger.warning(
            "%s holds evaluations of something else, or its first line is damaged; %s is used", self._path, other
        )
        self._path, self._identity, self._end = other, None, 0
        self._look()

    def _keep(self, key: Key, quality: Quality) -> None:
        super()._keep(key, quality)
        self._unwritten.pop(key, None)

    def _read_new_lines(self) -> bytes:
        """The whole lines behind those that were read; all of another file that took the place of this one."""
        try:
            with self._path.open("rb") as file:  # to open it, not to ask for its size, is what NFS answers freshly
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino)
                if identity != self._identity or status.st_size < self._end:
                    self._identity, self._end = identity, 0
                if status.st_size == self._end:
                    return b""
                file.seek(self._end)
                read = file.read()
        except FileNotFoundError:
            self._identity, self._end = None, 0
            return b""
        except OSError:
            return b""
        lines = read[: read.rfind(b"\n") + 1]
        self._end += len(lines)
        return lines

    def _write(self, key: Key, quality: Quality) -> None:
        warned = bool(self._unwritten)
        self._unwritten[key] = json.dumps(encode_entry(key, quality)).encode() + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while not self._append():
                pass
        except OSError as error:
            if not warned:
                reason = error.strerror or str(error)
                _logger.warning(
                    "%s cannot be written (%s); evaluations stay in memory until it can", self._path, reason
                )

    def _append(self) -> bool:
        """Append what others do not have; False where the file turned out to be another content's."""
        path = self._path
        with FileLock(f"{path}.lock", timeout=_LOCK_S, poll_interval=0.01):
            self._look()
            if self._path != path:
                return False
            lines = b"".join(self._unwritten.values())
            if lines:
                append(path, lines if self._end else self._header + lines)
                self._unwritten.clear()
                self._read_new_lines()
        return True


def _parse_document(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:  # as a machine that lost its power may leave
        return None
