"""The server itself: targets, health, figures for Prometheus."""

import shutil
from importlib.metadata import version

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from latency_models.targets import Target, list_aliases, list_targets
from nas.api.authentication import describe_needs
from nas.api.credentials import Role
from nas.api.errors import make_unavailable
from nas.api.routes.common import (
    TheMetrics,
    TheSearches,
    TheSettings,
    build_guarded_router,
    describe_answer,
    describe_errors,
)
from nas.api.schemas import Health, ServerView, TargetList, TargetView
from nas.parent.reference_models import list_reference_names
from nas.request.choices import ENGINE, METHODS, TOKEN_METHODS, WIDTH_METHODS

public, router = APIRouter(), build_guarded_router()
_TEXT = describe_answer("text/plain", "Prometheus' text format")


@public.get("/healthz")
async def alive() -> Health:
    """Whether the server answers."""
    return Health(status="ok")


@router.get("/readyz", responses=describe_errors(503), openapi_extra=describe_needs(Role.READ))
def ready(searches: TheSearches, settings: TheSettings) -> Health:
    """Whether searches could be started: what runs them answers, and there is room on the disk."""
    searches.check()
    free = shutil.disk_usage(settings.root).free
    if free < settings.limits.free_bytes:
        raise make_unavailable(
            f"{settings.root} has {free >> 20} MiB free, under {settings.limits.free_bytes >> 20} MiB"
        )
    return Health(status="ok")


@router.get(
    "/metrics", response_class=Response, responses=describe_errors(503) | _TEXT, openapi_extra=describe_needs(Role.READ)
)
def figures(searches: TheSearches, metrics: TheMetrics) -> Response:
    """Requests, times, searches by state and clients that follow, for Prometheus."""
    return Response(metrics.render_text(searches.count_states()), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/targets", responses=describe_errors(), openapi_extra=describe_needs(Role.READ))
def targets() -> TargetList:
    """The devices that a search can be for."""
    return TargetList(targets=[_build_view(target) for target in list_targets()], aliases=list_aliases())


def _build_view(target: Target) -> TargetView:
    source = target.note if target.sheet is None else target.sheet.source
    return TargetView(
        name=target.name, runtime=target.runtime, precision=target.precision, measured=target.is_host, source=source
    )


@router.get("/v1/server", responses=describe_errors(), openapi_extra=describe_needs(Role.READ))
def server(settings: TheSettings) -> ServerView:
    """What can be asked of this server."""
    return ServerView(
        version=version("nas"), mlflow=settings.mlflow_page, models=list(list_reference_names()),
        methods=[ENGINE, *METHODS, *TOKEN_METHODS, *WIDTH_METHODS], hub=settings.roots.hub,
    )  # fmt: skip
