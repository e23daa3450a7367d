"""What the service refuses, and the one JSON shape of every error: `{"error": {"code", "message", "request_id"}}`."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from nas.storage.redact import remove_passwords
from search_spaces.errors import ExecutionError, MissingExtra, NasError, StorageUnavailable, TrackingError

_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_OURS = (ExecutionError, MissingExtra, StorageUnavailable, TrackingError)
_LONGEST = 2000  # characters of a message; it may quote what was sent


class Refusal(NasError):
    """A request that is not served.

    Attributes:
        status: of HTTP.
        code: a word that programs compare.
        headers: that belong to the answer.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})


def make_unknown(what: str) -> Refusal:
    """There is no such thing."""
    return Refusal(404, "not_found", f"{what} is not known here; GET /v1/searches lists what is")


def make_unavailable(message: str) -> Refusal:
    """What runs the searches cannot be reached."""
    return Refusal(503, "unavailable", message, {"Retry-After": "10"})


def make_damaged(id: str) -> Refusal:
    """The files of a search do not hold what a search writes."""
    again = f"POST /v1/searches/{id}/resume has it written again"
    return Refusal(409, "damaged_result", f"the result of search {id} is damaged; {again}")


class ErrorResponse(Response):
    """An answer in the shape of errors; plain ASCII, since a message may quote what cannot be encoded."""

    media_type = "application/json"

    def __init__(self, status: int, code: str, message: str, request_id: str, headers: Mapping[str, str]) -> None:
        body = {"error": {"code": code, "message": remove_passwords(message[:_LONGEST]), "request_id": request_id}}
        super().__init__(json.dumps(body).encode("ascii"), status, dict(headers))


def install(app: FastAPI) -> None:
    """Make every error of an app answer in that shape. What nobody foresaw is answered by the observer."""
    app.add_exception_handler(NasError, _on_ours)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)


def get_request_id(scope: Mapping[str, Any]) -> str:
    """The id of the request in hand."""
    return str(scope.get("state", {}).get("request_id", ""))


async def _on_ours(request: Request, error: Exception) -> Response:
    """Errors of the tree are about what the client sent, but for those about what the server itself lacks."""
    status, code, headers = 422, "invalid", {}
    if isinstance(error, _OURS):
        error = make_unavailable(str(error))
    if isinstance(error, Refusal):
        status, code, headers = error.status, error.code, error.headers
    return ErrorResponse(status, code, str(error), get_request_id(request.scope), headers)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "refused")
    headers = error.headers or {}
    return ErrorResponse(error.status_code, code, str(error.detail), get_request_id(request.scope), headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = "; ".join(_describe(problem) for problem in error.errors()[:8])
    return ErrorResponse(422, "invalid", problems, get_request_id(request.scope), {})


def _describe(problem: Mapping[str, Any]) -> str:
    """Where and what, without the value: it may be long, or no text at all."""
    where = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query", "path", "header"))
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
