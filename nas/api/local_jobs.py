"""Searches as processes of this machine: a queue, a few at a time, and a folder that outlives the server."""

import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nas.api.errors import Refusal, make_unavailable
from nas.api.jobs import CHUNK, Job, LogPart, State, cut, read_last_words
from nas.storage.private_files import make_private, write_private

_RECORD, _LOG, _EXIT = "job.json", "log.txt", "exit"
_LOGGER = logging.getLogger("nas.api")
_TAIL = 1 << 16  # bytes of a log in which the last words are looked for
_LOOK_S = 0.1  # between two looks at a process
_INTERRUPTED = 130
# The shell outlives a Ctrl-C to write down how the command ended, which a server that was started since then can read.
_KEEPER = 'trap : INT TERM; "$@"; echo $? > "$0.draft" && mv "$0.draft" "$0"'


@dataclass(frozen=True)
class _Record:
    """A job as it is kept on disk. `pid` leads the process group; `born` tells it from a later one of that number."""

    id: str
    arguments: tuple[str, ...]
    metadata: dict[str, str]
    submitted: float
    state: State = State.QUEUED
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    message: str | None = None
    pid: int | None = None
    born: str | None = None
    cancelled: bool = False

    @property
    def job(self) -> Job:
        return Job(self.id, self.state, self.started, self.ended, self.exit_code, self.message)


class LocalJobs:
    """Jobs in a folder.

    Args:
        folder: one folder for each job: what was asked, the log, how it ended.
        command: what the arguments follow: the `nas` program.
        running: searches at a time.
        queued: how many may wait.
        grace_s: from Ctrl-C to the end by force.
    """

    def __init__(
        self, folder: Path, command: Sequence[str], running: int = 1, queued: int = 100, grace_s: float = 30.0
    ) -> None:
        self._folder, self._command, self._grace_s = folder, tuple(command), grace_s
        self._max_running, self._max_queued = running, queued
        self._lock, self._closing = threading.RLock(), False
        self._records: dict[str, _Record] = {}
        self._keepers: dict[str, threading.Thread] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob(f"*/{_RECORD}")):
            record = _load(path)
            if record is not None:
                self._records[record.id] = record
        with self._lock:
            for record in [r for r in self._records.values() if r.state is State.RUNNING]:
                self._keep(record, None)
            self._fill()

    def submit(self, id: str, arguments: Sequence[str], metadata: Mapping[str, str]) -> None:
        """Queue a search, and start it if there is room."""
        with self._lock:
            if id in self._records:
                raise Refusal(409, "exists", f"job {id} is there already; choose another id")
            waiting = self._count(State.QUEUED)
            if waiting >= self._max_queued:
                raise Refusal(
                    429, "queue_full", f"{waiting} searches wait already; try again later", {"Retry-After": "60"}
                )
            record = _Record(id, tuple(arguments), dict(metadata), time.time())
            try:
                (self._folder / id).mkdir()
                self._save(record)
            except OSError as error:
                raise make_unavailable(
                    f"the search cannot be written down ({error.strerror}); make room first"
                ) from None
            self._records[id] = record
            self._fill()

    def list_all(self) -> tuple[Job, ...]:
        """Every job of the folder."""
        with self._lock:
            return tuple(record.job for record in self._records.values())

    def get(self, id: str) -> Job:
        """One job."""
        with self._lock:
            return self._records[id].job

    def read_log(self, id: str, offset: int) -> LogPart:
        """What it wrote from a byte on."""
        ended = self.get(id).state.ended  # asked first: what it wrote last is there by then
        try:
            with (self._folder / id / _LOG).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(min(offset, size))
                data = file.read(CHUNK + 1)
        except FileNotFoundError:
            return LogPart((), 0)
        return cut(data, min(offset, size), ended)

    def cancel(self, id: str) -> None:
        """Take it out of the queue, or end it."""
        with self._lock:
            record = self._records[id]
            if record.state is State.QUEUED:
                self._put(replace(record, state=State.CANCELLED, ended=time.time(), cancelled=True))
            elif record.state is State.RUNNING and not record.cancelled:
                self._put(replace(record, cancelled=True))
                _send_signal(record, signal.SIGINT)

    def check(self) -> None:
        """Whether the folder can be written to."""
        if self._closing:
            raise make_unavailable("the server is ending; start it again")
        if not os.access(self._folder, os.W_OK):
            raise make_unavailable(f"{self._folder} cannot be written to; give the server's account the right to")

    def close(self) -> None:
        """End what runs, which can go on later; what waits goes on waiting when a server is started again."""
        with self._lock:
            self._closing = True
            keepers = list(self._keepers.values())
            for record in self._records.values():
                if record.state is State.RUNNING:
                    _send_signal(record, signal.SIGINT)
        for keeper in keepers:
            keeper.join(self._grace_s + 10)

    def _fill(self) -> None:
        """Start what waits, first come, first served."""
        waiting = [record for record in self._records.values() if record.state is State.QUEUED]
        for record in sorted(waiting, key=lambda r: r.submitted):
            if self._closing or self._count(State.RUNNING) >= self._max_running:
                return
            self._start(record)

    def _start(self, record: _Record) -> None:
        folder = self._folder / record.id
        command = ["sh", "-c", _KEEPER, str(folder / _EXIT), *self._command, *record.arguments]
        try:
            with open(folder / _LOG, "ab", opener=_open_private) as log:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True
                )
        except OSError as error:  # no room for its log or its process: the next one may fare better
            self._put(replace(record, state=State.FAILED, ended=time.time(), message=f"it did not start: {error}"))
            return
        started = replace(
            record, state=State.RUNNING, started=time.time(), pid=process.pid, born=_read_start_time(process.pid)
        )  # fmt: skip
        self._put(started)
        self._keep(started, process)

    def _keep(self, record: _Record, process: subprocess.Popen[bytes] | None) -> None:
        """Watch over a process in a thread of its own; there are as many as run at a time."""
        keeper = threading.Thread(target=self._watch, args=(record, process), name=f"job-{record.id}", daemon=True)
        self._keepers[record.id] = keeper
        keeper.start()

    def _watch(self, record: _Record, process: subprocess.Popen[bytes] | None) -> None:
        deadline = None
        while not self._has_ended(record, process):
            if deadline is None and (self._closing or self._records[record.id].cancelled):
                deadline = time.monotonic() + self._grace_s
            if deadline is not None and time.monotonic() > deadline:
                _send_signal(record, signal.SIGKILL)
        with self._lock:
            self._finish(self._records[record.id])
            self._keepers.pop(record.id, None)
            self._fill()

    def _has_ended(self, record: _Record, process: subprocess.Popen[bytes] | None) -> bool:
        """Whether it has ended; waits a little for that."""
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
            return process.returncode is not None
        if (self._folder / record.id / _EXIT).exists() or not _is_alive(record):
            return True
        time.sleep(_LOOK_S)
        return False

    def _finish(self, record: _Record) -> None:
        code = self._exit_code(record)
        state = State.SUCCEEDED if code == 0 else State.FAILED
        if record.cancelled and code != 0:
            state = State.CANCELLED
        elif code in (None, _INTERRUPTED) or (code != 0 and self._closing):
            state = State.INTERRUPTED
        message = None if state is State.SUCCEEDED else self._read_last_words(record.id)
        self._put(replace(record, state=state, ended=time.time(), exit_code=code, message=message))

    def _exit_code(self, record: _Record) -> int | None:
        """As the shell wrote it down; None where it was killed itself."""
        with suppress(OSError, ValueError):
            return int((self._folder / record.id / _EXIT).read_text())
        return None

    def _read_last_words(self, id: str) -> str | None:
        with suppress(OSError), (self._folder / id / _LOG).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            return read_last_words(file.read().decode(errors="replace"))
        return None

    def _count(self, state: State) -> int:
        return sum(record.state is state for record in self._records.values())

    def _put(self, record: _Record) -> None:
        """Remember what became of a job."""
        with suppress(OSError):  # on a full disk the search still ends, and a server that is started later looks
            self._save(record)
        self._records[record.id] = record

    def _save(self, record: _Record) -> None:
        """Write a job down; the file is complete or not there."""
        write_private(self._folder / record.id / _RECORD, json.dumps(asdict(record)) + "\n")


def _load(path: Path) -> _Record | None:
    """A job of an earlier server; None, and a line in the log, where its file is damaged."""
    make_private(path)
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        document |= {"arguments": tuple(document["arguments"]), "state": State(document["state"])}
        return _Record(**document)
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        _LOGGER.warning("left out", extra={"fields": {"file": str(path), "damaged": str(error)}})
        return None


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _send_signal(record: _Record, number: signal.Signals) -> None:
    """To all processes of a job."""
    if record.pid is not None and _is_alive(record):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(record.pid, number)


def _is_alive(record: _Record) -> bool:
    """Whether the process that was started is there, and not another one that got its number."""
    if record.pid is None:
        return False
    if record.born is not None:
        return _read_start_time(record.pid) == record.born
    try:
        os.kill(record.pid, 0)
    except OSError:
        return False
    return True


def _read_start_time(pid: int) -> str | None:
    """When a process was started, in the system's own count; None where it has ended or the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]
