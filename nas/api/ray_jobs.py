"""Searches as jobs of a Ray cluster, through its dashboard. They outlive the server, which asks about them again.

Ray's own token is sent where RAY_AUTH_MODE and its companions ask for one. Result folders have to be on a file system
that the head node and the server share.
"""

import os
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from nas.api.errors import Refusal, make_unavailable
from nas.api.jobs import Job, LogPart, State, cut, read_last_words
from search_spaces.errors import MissingExtra

_FRESH_S = 1.0  # an answer of the cluster serves everybody who asks within this time
_MAX_LOGS = 64  # that are kept so
_MARK = "nas.job"  # in the metadata of the jobs that are ours
_STATES = {
    "PENDING": State.QUEUED, "RUNNING": State.RUNNING, "SUCCEEDED": State.SUCCEEDED, "FAILED": State.FAILED,
    "STOPPED": State.CANCELLED,
}  # fmt: skip
_T = TypeVar("_T")


class RayJobs:
    """Jobs of a cluster.

    Args:
        address: of the dashboard, such as http://head:8265.
        command: what the arguments follow: the `nas` program on the nodes.
        grace_s: from the request to stop to the end by force.
    """

    def __init__(self, address: str, command: Sequence[str] = ("nas",), grace_s: float = 30.0) -> None:
        self._address, self._command, self._grace_s = address, tuple(command), grace_s
        self._lock = threading.Lock()
        self._made: Any = None
        self._kept: dict[str, tuple[float, Any]] = {}

    def submit(self, id: str, arguments: Sequence[str], metadata: Mapping[str, str]) -> None:
        """Submit a job under this id."""
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(int(self._grace_s))}
        self._ask(
            lambda client: client.submit_job(
                entrypoint=shlex.join([*self._command, *arguments]),
                submission_id=id,
                runtime_env={"env_vars": environment},
                metadata={**metadata, _MARK: id},
            )
        )
        self._kept.clear()

    def list_all(self) -> tuple[Job, ...]:
        """Those of the cluster's jobs that were submitted by a server like this one."""
        listed = self._get_recent("jobs", lambda client: client.list_jobs())
        return tuple(_build_job(details) for details in listed if _MARK in (details.metadata or {}))

    def get(self, id: str) -> Job:
        """One job."""
        known = next((job for job in self.list_all() if job.id == id), None)
        if known is None:
            raise KeyError(id)
        return known

    def read_log(self, id: str, offset: int) -> LogPart:
        """What its driver wrote; the cluster always tells all of it."""
        ended = self.get(id).state.ended
        data: bytes = self._get_recent(f"log {id} {ended}", lambda client: client.get_job_logs(id).encode())
        start = min(offset, len(data))
        return cut(data[start:], start, ended)

    def cancel(self, id: str) -> None:
        """Have the cluster stop it."""
        if not self.get(id).state.ended:
            self._ask(lambda client: client.stop_job(id))
            self._kept.clear()

    def check(self) -> None:
        """Whether the dashboard answers."""
        self._ask(lambda client: client.get_version())

    def close(self) -> None:
        """The cluster's jobs go on."""

    def _get_recent(self, name: str, question: Callable[[Any], _T]) -> _T:
        """The answer to a question, or what it was a moment ago."""
        known = self._kept.get(name)
        if known is not None and time.monotonic() - known[0] < _FRESH_S:
            return known[1]  # type: ignore[no-any-return]
        answer = self._ask(question)
        if len(self._kept) >= _MAX_LOGS:
            self._kept.clear()
        self._kept[name] = time.monotonic(), answer
        return answer

    def _ask(self, question: Callable[[Any], _T]) -> _T:
        """Ask the cluster.

        Raises:
            Refusal: it does not answer, or does not let us in.
        """
        try:
            return question(self._get_client())
        except (Refusal, MissingExtra):
            raise
        except Exception as error:  # the client raises what its libraries do, and RuntimeError for any answer
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise make_unavailable(f"the Ray cluster does not do it ({reason}); see whether it runs") from error

    def _get_client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = _connect(self._address)
            return self._made


def _connect(address: str) -> Any:
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise MissingExtra("jobs of a Ray cluster need a package; pip install 'nas[ray]'") from None
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # RAY_ADDRESS would win over the argument, and this wins over both
    return JobSubmissionClient(address)


def _build_job(details: Any) -> Job:
    state = _STATES[str(getattr(details.status, "value", details.status))]
    message = None
    if state is State.FAILED and details.message:
        message = read_last_words(details.message)
    code = getattr(details, "driver_exit_code", None)
    if state is State.SUCCEEDED:
        code = 0
    return Job(
        details.submission_id,
        state,
        _convert_to_seconds(details.start_time),
        _convert_to_seconds(details.end_time),
        code,
        message,
    )


def _convert_to_seconds(ms: int | None) -> float | None:
    return ms / 1000 if ms else None
