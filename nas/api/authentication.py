"""Who may pass: every guarded route names a role, and nothing of a request's body is read before it was checked."""

import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from pyrate_limiter import InMemoryBucket, Rate, RateItem
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive

from nas.api.credentials import Role, Token, find
from nas.api.errors import Refusal, make_unavailable
from search_spaces.errors import NasError

_LOG = logging.getLogger("nas.api")
ROLE, LIMIT = "x-role", "x-body-limit"  # in the OpenAPI document, where clients see them too
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="nas"'}
_MINUTE = 60_000  # ms
_UNREAD = 1 << 10  # bytes that may come where nobody reads them
_DIGITS = 12  # of a length that is worth reading


@dataclass
class Access:
    """Checks tokens and counts requests.

    Attributes:
        tokens: those that are valid now.
        per_minute: requests of one token in any minute.
    """

    tokens: Callable[[], tuple[Token, ...]]
    per_minute: int
    _buckets: dict[str, InMemoryBucket] = field(default_factory=dict)

    def admit(self, authorization: str | None, role: Role) -> Token:
        """The token of a request's Authorization header.

        Raises:
            Refusal: 401 without a valid token, 403 without the role, 429 after too many requests, 503 without a list
                of tokens.
        """
        scheme, _, secret = (authorization or "").partition(" ")
        token = find(secret.strip(), self._list_valid()) if scheme.lower() == "bearer" else None
        if token is None or token.has_ended(datetime.now(UTC)):
            reason = "this needs a token" if authorization is None else "this token is not valid here"
            raise Refusal(
                401, "unauthorized", f"{reason}; send Authorization: Bearer TOKEN (nas token create makes one)",
                _CHALLENGE,
            )  # fmt: skip
        if not token.has_role(role):
            has = ", ".join(sorted(token.roles))
            raise Refusal(403, "forbidden", f"token {token.name} has the role {has}, and this needs {role}")
        self._count(token.name)
        return token

    def _list_valid(self) -> tuple[Token, ...]:
        """The tokens.

        Raises:
            Refusal: 503, since it is the server whose file is missing or broken. Who asks is told no more than that.
        """
        try:
            return self.tokens()
        except NasError as error:
            _LOG.error("tokens cannot be read", extra={"fields": {"error": str(error)}})
            raise make_unavailable("the server cannot read its tokens; its log says why") from None

    def _count(self, name: str) -> None:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = InMemoryBucket([Rate(self.per_minute, _MINUTE)])
        now = time.monotonic_ns() // 1_000_000
        bucket.leak(now)
        item = RateItem(name, now)
        if not bucket.put(item):
            wait = bucket.waiting(item)
            seconds = max(1, -(-int(wait) // 1000)) if isinstance(wait, int) else 60
            raise Refusal(
                429, "too_many_requests",
                f"token {name} made {self.per_minute} requests within a minute; try again in {seconds} s",
                {"Retry-After": str(seconds)},
            )  # fmt: skip


class GuardedRoute(APIRoute):
    """A route for those with its role; larger bodies than its limit are not read.

    Both stand in `openapi_extra`, as `describe_needs` writes them; a route without is an error when the app is made.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the checks."""
        handler, extra = super().get_route_handler(), self.openapi_extra or {}
        role, limit = Role(extra[ROLE]), extra[LIMIT]

        async def handle(request: Request) -> Response:
            request.state.token = request.app.state.access.admit(request.headers.get("authorization"), role)
            max_bytes = _UNREAD if limit is None else getattr(request.app.state.settings.limits, limit)
            return await handler(Request(request.scope, _limit_body(request, max_bytes)))

        return handle


def describe_needs(role: Role, body: str | None = None, **openapi: Any) -> dict[str, Any]:
    """The `openapi_extra` of a guarded route; `body` names the limit in `Limits`, None where no body is taken."""
    return {ROLE: str(role), LIMIT: body, **openapi}


def _limit_body(request: Request, limit: int) -> Receive:
    """What receives a request's body, up to so many bytes, whether or not its length was announced.

    Raises:
        HTTPException: 413.
    """
    declared, read = request.headers.get("content-length", ""), 0
    if declared.isascii() and declared.isdigit() and (len(declared) > _DIGITS or int(declared) > limit):
        raise _build_too_large_error(limit)

    async def receive() -> Message:
        nonlocal read
        message = await request.receive()
        read += len(message.get("body", b""))
        if read > limit:
            raise _build_too_large_error(limit)
        return message

    return receive


def _build_too_large_error(limit: int) -> HTTPException:
    """Of the one class that FastAPI lets through while it reads a body."""
    return HTTPException(413, f"this takes at most {limit} bytes; send less", {"Connection": "close"})
