"""What the routes share: the objects of the app, and how errors stand in the OpenAPI document."""

from typing import Annotated, Any

from anyio import CapacityLimiter
from fastapi import APIRouter, Depends, Request, Security
from fastapi.security import HTTPBearer

from nas.api.authentication import GuardedRoute
from nas.api.credentials import Token
from nas.api.devices import Devices
from nas.api.metrics import Metrics
from nas.api.schemas import ErrorView
from nas.api.searches import Searches
from nas.api.settings import Settings

_WORDS = {
    400: "The request cannot be read",
    401: "No valid token",
    403: "The token has another role",
    404: "There is no such thing",
    409: "Not in this state",
    413: "The request is too large",
    422: "What was sent is not valid",
    429: "Too many requests, or the queue is full",
    503: "What runs the searches cannot be reached",
}
# For the document only: GuardedRoute checks the token, before anything else is looked at.
_IN_DOCUMENT = [Security(HTTPBearer(auto_error=False, description="A token of `nas token create`"))]


def describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a guarded route: what each has, and its own."""
    return {s: {"model": ErrorView, "description": _WORDS[s]} for s in sorted({401, 403, 413, 422, 429, *statuses})}


def describe_answer(media_type: str, description: str, **schema: Any) -> dict[int | str, dict[str, Any]]:
    """A successful answer that is no JSON: a string unless its schema says else."""
    return {200: {"content": {media_type: {"schema": {"type": "string"} | schema}}, "description": description}}


def build_guarded_router() -> APIRouter:
    """A router all of whose routes need a role."""
    return APIRouter(route_class=GuardedRoute, dependencies=_IN_DOCUMENT)


# Coroutines, since FastAPI runs plain functions in threads, and these have nothing to wait for.


async def _get_searches(request: Request) -> Searches:
    searches: Searches = request.app.state.searches
    return searches


async def _get_devices(request: Request) -> Devices:
    devices: Devices = request.app.state.devices
    return devices


async def _get_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _get_metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


async def _get_token(request: Request) -> Token:
    token: Token = request.state.token
    return token


async def _get_limiter(request: Request) -> CapacityLimiter:
    limiter: CapacityLimiter = request.app.state.limiter
    return limiter


TheSearches = Annotated[Searches, Depends(_get_searches)]
TheDevices = Annotated[Devices, Depends(_get_devices)]
TheSettings = Annotated[Settings, Depends(_get_settings)]
TheMetrics = Annotated[Metrics, Depends(_get_metrics)]
TheToken = Annotated[Token, Depends(_get_token)]
TheLimiter = Annotated[CapacityLimiter, Depends(_get_limiter)]  # of threads, for what is done beside an async route
