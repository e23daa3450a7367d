"""Connections that end: what a client takes before it has shown a token has a limit in time and in number."""

import asyncio
import logging
import resource
import time
from contextlib import suppress

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from nas.api.settings import Limits

_LOG = logging.getLogger("nas.api")
_OTHER_FILES = 128  # descriptors for logs, jobs, results and the libraries
_ANSWER = b"HTTP/1.1 %s\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LATE, _FULL = _ANSWER % b"408 Request Timeout", _ANSWER % b"503 Service Unavailable"


def count_possible_connections(asked: int) -> int:
    """How many connections there may be at a time: as many as asked, or as this process may open files for.

    The system's soft limit is raised for it where the hard one allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = asked + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return max(1, min(asked, soft - _OTHER_FILES))
    return asked


class Connection(H11Protocol):
    """uvicorn's connection, which alone waits for ever for a request that never gets complete.

    There is one deadline at a time: for the head of a request, from the connection or the answer before it; for its
    body, from its head. Another runs while the buffers are full for a client that does not read.
    """

    limits = Limits()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._deadline: asyncio.TimerHandle | None = None
        self._awaited: object = None  # the state of the client that the deadline is of
        self._unread: asyncio.TimerHandle | None = None
        self.idle_since = time.monotonic()

    @property
    def idle(self) -> bool:
        """Whether it waits for the head of a request."""
        return self.conn.their_state is h11.IDLE and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; the connection that has waited longest for a request makes room where there is none."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            waiting = [each for each in self.connections if isinstance(each, Connection) and each.idle]
            min(waiting, key=lambda each: each.idle_since).end(_FULL)  # this one is among them
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes; they put off no deadline."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """The next request may come, and may be there already."""
        self.idle_since = time.monotonic()
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        for timer in (self._deadline, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read what it asked for."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads."""
        if self._unread is not None:
            self._unread.cancel()
        super().resume_writing()

    def end(self, answer: bytes) -> None:
        """Close the connection, with an answer where none was begun; what the client does not take is dropped."""
        if self.transport.is_closing():
            return
        begun = self.cycle is not None and self.cycle.response_started
        if self.idle or not begun:
            self.transport.write(answer)
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self.loop.call_later(self.limits.unread_s, self.transport.abort)

    def _watch(self) -> None:
        """Set the deadline of what is awaited now, unless it is set already."""
        state = self.conn.their_state
        if state is self._awaited or self.transport.is_closing():
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._awaited, self._deadline = state, None
        seconds = {h11.IDLE: self.limits.head_s, h11.SEND_BODY: self.limits.body_s}.get(state)
        if seconds is not None:
            self._deadline = self.loop.call_later(seconds, self._close_overdue, state)

    def _close_overdue(self, state: object) -> None:
        if self.conn.their_state is state:
            _LOG.info("ended", extra={"fields": {"client": self.client and self.client[0], "waited_for": str(state)}})
            self.end(_LATE)
        self._awaited = None


def build_connection_class(limits: Limits) -> type[Connection]:
    """Connections with these limits."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
