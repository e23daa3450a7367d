"""Around every request: its id, a line in the log, the figures, headers for browsers; no traceback for clients."""

import json
import logging
import time
import traceback
import uuid
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nas.api.errors import ErrorResponse
from nas.api.metrics import Metrics
from nas.storage.redact import remove_passwords

_LOG = logging.getLogger("nas.api")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Observer:
    """An ASGI app around another."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        id, began, status = uuid.uuid4().hex, time.monotonic(), 0
        scope.setdefault("state", {})["request_id"] = id

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/v1/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except ClientDisconnect:  # or it was let go because it took too long
            pass
        except Exception:
            _LOG.error("failed", extra={"fields": {"id": id, "traceback": traceback.format_exc()}})
            if status == 0:
                reason = f"the server failed; its log has the reason under {id}"
                await ErrorResponse(500, "internal", reason, id, {})(scope, receive, send_marked)
        finally:
            self._log_request(scope, status or 499, time.monotonic() - began)

    def _log_request(self, scope: Scope, status: int, seconds: float) -> None:
        """One line: the route's template, never the path, the query or the headers as they came."""
        route, state = getattr(scope.get("route"), "path", "unmatched"), scope["state"]
        self._metrics.count_request(scope["method"], route, status, seconds)
        token = state.get("token")
        fields = {
            "id": state["request_id"], "method": scope["method"][:16], "route": route, "status": status,
            "ms": round(1000 * seconds, 1), "token": token.name if token else None,
            "client": (scope.get("client") or (None,))[0],
        }  # fmt: skip
        _LOG.info("request", extra={"fields": fields})


class JsonLines(logging.Formatter):
    """Log records as JSON, one a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without the passwords of URLs in it."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        fields = {name: remove_passwords(value) if isinstance(value, str) else value for name, value in line.items()}
        return json.dumps(fields)
