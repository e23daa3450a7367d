"""Searches: submit, list, look, follow, cancel, resume. Those that block are plain functions, which run in threads."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from anyio import Event, to_thread
from fastapi import Header, Query
from fastapi.responses import FileResponse, Response
from sse_starlette import EventSourceResponse, JSONServerSentEvent

from nas.api.artifacts import find_artifact, list_artifacts
from nas.api.authentication import describe_needs
from nas.api.credentials import Role
from nas.api.errors import Refusal
from nas.api.events import LAST_ID, follow, parse_last_id
from nas.api.jobs import LogPart, State
from nas.api.metrics import Metrics
from nas.api.routes.common import (
    TheLimiter,
    TheMetrics,
    TheSearches,
    TheSettings,
    TheToken,
    build_guarded_router,
    describe_answer,
    describe_errors,
)
from nas.api.schemas import ArtifactList, SearchPage, SearchView
from nas.api.submission import Submission

router = build_guarded_router()
_HEARTBEAT_S, _SLOW_S, _FAREWELL_S = 15, 30, 5
_ONE = "/v1/searches/{id}"
_EVENT = {
    "event": {"type": "string", "enum": ["state", "log", "document", "end"]},
    "id": {"type": "string", "pattern": f"^{LAST_ID}$"},
    "data": {"type": "string", "contentMediaType": "application/json"},
}
_STREAM = describe_answer(
    "text/event-stream", "Events, until the search has ended", type="object", properties=_EVENT,
    required=["event", "id", "data"],
)  # fmt: skip
_FILE = describe_answer("application/octet-stream", "The file", format="binary")


@router.post(
    "/v1/searches",
    status_code=201,
    responses=describe_errors(400, 503),
    openapi_extra=describe_needs(Role.SUBMIT, "request_bytes"),
)
def submit(submission: Submission, searches: TheSearches, token: TheToken) -> SearchView:
    """Submit a search. It starts when there is room."""
    return searches.submit(submission, token.name)


@router.get("/v1/searches", responses=describe_errors(503), openapi_extra=describe_needs(Role.READ))
def list_searches(
    searches: TheSearches,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[str | None, Query(max_length=80, description="`next` of the page before")] = None,
    state: State | None = None,
) -> SearchPage:
    """The latest searches of everybody."""
    return searches.list_page(limit, before, state)


@router.get(_ONE, responses=describe_errors(404, 503), openapi_extra=describe_needs(Role.READ))
def get_search(id: str, searches: TheSearches) -> SearchView:
    """One search: what was asked, and how far it is."""
    return searches.get(id)


@router.post(
    _ONE + "/cancel", status_code=202, responses=describe_errors(404, 503), openapi_extra=describe_needs(Role.SUBMIT)
)
def cancel(id: str, searches: TheSearches) -> SearchView:
    """Ask a search to end. What it found is kept; one that has ended stays as it is."""
    return searches.cancel(id)


@router.post(
    _ONE + "/resume",
    status_code=202,
    responses=describe_errors(404, 409, 503),
    openapi_extra=describe_needs(Role.SUBMIT),
)
def resume(id: str, searches: TheSearches) -> SearchView:
    """Go on with a search that stopped early."""
    return searches.resume(id)


@router.get(
    _ONE + "/events", response_class=EventSourceResponse, responses=describe_errors(404, 503) | _STREAM,
    openapi_extra=describe_needs(Role.READ),
)  # fmt: skip
async def events(
    id: str, searches: TheSearches, settings: TheSettings, metrics: TheMetrics, limiter: TheLimiter,
    last_event_id: Annotated[str | None, Header(pattern=f"^({LAST_ID})?$")] = None,
) -> EventSourceResponse:  # fmt: skip
    """Follow a search: `state`, `log`, `document` and, last, `end`; goes on after Last-Event-ID."""

    run, offset = parse_last_id(last_event_id)
    await to_thread.run_sync(searches.get, id, limiter=limiter)
    if metrics.following >= settings.limits.followers:
        raise Refusal(429, "too_many_followers", "too many clients follow searches; try again", {"Retry-After": "30"})

    async def look(run: int, offset: int) -> tuple[SearchView, int, LogPart]:
        return await to_thread.run_sync(searches.read_log, id, run, offset, limiter=limiter)

    ending = Event()
    return EventSourceResponse(
        _count_reader(follow(look, run, offset, ending), metrics), ping=_HEARTBEAT_S, send_timeout=_SLOW_S,
        shutdown_event=ending, shutdown_grace_period=_FAREWELL_S,
    )  # fmt: skip


async def _count_reader(
    events: AsyncIterator[JSONServerSentEvent], metrics: Metrics
) -> AsyncIterator[JSONServerSentEvent]:  # fmt: skip
    """The same events, with their reader counted for as long as it is there."""
    with metrics.count_follower():
        async for event in events:
            yield event


@router.get(
    _ONE + "/result",
    response_model=dict[str, Any],
    responses=describe_errors(404, 503),
    openapi_extra=describe_needs(Role.READ),
)
def result(id: str, searches: TheSearches) -> dict[str, Any]:
    """The document that the search wrote: parent, winner, baselines, front."""
    return searches.read_result(id)


@router.get(_ONE + "/artifacts", responses=describe_errors(404), openapi_extra=describe_needs(Role.READ))
def artifacts(id: str, searches: TheSearches) -> ArtifactList:
    """The files of the result folder: weights, ONNX files, figures, certificate."""
    return ArtifactList(artifacts=list_artifacts(searches.get_folder(id)))


@router.get(
    _ONE + "/artifacts/{name:path}", response_class=FileResponse, responses=describe_errors(404) | _FILE,
    openapi_extra=describe_needs(Role.READ),
)  # fmt: skip
def artifact(id: str, name: str, searches: TheSearches) -> Response:
    """One file, to be kept and not to be shown: a page in it would run in this site's name."""
    path = find_artifact(searches.get_folder(id), name)
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)
