"""The contract of what runs searches: processes of this machine, or jobs of a Ray cluster."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from nas.storage.redact import remove_passwords

_PIECE = 1 << 16  # bytes; a longer line is told in pieces
CHUNK = 1 << 18  # bytes of a log that are told at a time
_DOCUMENT = '{"schema_version"'  # how the line begins that `nas search --json` writes last


class State(StrEnum):
    """Of a job. An `interrupted` one was ended by nobody's wish and can go on; one that is `lost` nobody remembers."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    LOST = "lost"

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self not in (State.QUEUED, State.RUNNING)


@dataclass(frozen=True)
class Job:
    """One run of `nas search`; times in seconds since 1970, None where not there yet.

    Attributes:
        message: why it ended as it did, where that is known.
    """

    id: str
    state: State
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    message: str | None = None


@dataclass(frozen=True)
class LogPart:
    """Lines of a log, each with the offset in bytes after it.

    Attributes:
        offset: where the next part begins.
        more: whether it is there already.
    """

    lines: tuple[tuple[str, int], ...]
    offset: int
    more: bool = False


class Jobs(Protocol):
    """Runs searches. All calls may block, and may come from several threads at once."""

    def submit(self, id: str, arguments: Sequence[str], metadata: Mapping[str, str]) -> None:
        """Run `nas` with these arguments, now or when there is room.

        Raises:
            Refusal: there is no more room, or what runs jobs cannot be reached.
        """

    def list_all(self) -> tuple[Job, ...]:
        """Every job that is known.

        Raises:
            Refusal: what runs jobs cannot be reached.
        """

    def get(self, id: str) -> Job:
        """One job.

        Raises:
            KeyError: it is not known.
            Refusal: what runs jobs cannot be reached.
        """

    def read_log(self, id: str, offset: int) -> LogPart:
        """What the job wrote to both its streams from a byte on; of a job that runs, whole lines only.

        Raises:
            KeyError: it is not known.
            Refusal: what runs jobs cannot be reached.
        """

    def cancel(self, id: str) -> None:
        """Ask the job to end, and end it if it does not; nothing happens to one that has ended.

        Raises:
            KeyError: it is not known.
            Refusal: what runs jobs cannot be reached.
        """

    def check(self) -> None:
        """Find out whether jobs could be run.

        Raises:
            Refusal: they could not, and why.
        """

    def close(self) -> None:
        """The server ends: keep what has to be kept."""


def cut(data: bytes, offset: int, ended: bool) -> LogPart:
    """The lines of the next bytes of a log.

    Args:
        data: from `offset` on.
        ended: whether nothing follows, so that a line without an end is one too.
    """
    lines, position, more = [], 0, len(data) > CHUNK
    data, ended = data[:CHUNK], ended and not more
    while position < len(data):
        end = data.find(b"\n", position)
        stop = len(data) if end < 0 else end + 1
        if end < 0 and not ended and stop - position < _PIECE:
            break
        stop = min(stop, position + _PIECE)
        text = remove_passwords(data[position:stop].decode(errors="replace").rstrip("\r\n"))
        position = stop
        lines.append((text, offset + position))
    return LogPart(tuple(lines), offset + position, more)


def is_document(line: str) -> bool:
    """Whether a line of a log is what `nas search --json` prints for programs."""
    return line.startswith(_DOCUMENT)


def read_last_words(log: str) -> str | None:
    """The message of the error document that a failed `nas search --json` writes last; else its last line."""
    lines = [line for line in log.splitlines() if line.strip()]
    if not lines:
        return None
    try:
        document: Any = json.loads(lines[-1])
        return remove_passwords(str(document["error"]["message"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return remove_passwords(lines[-1].strip())[:500]
