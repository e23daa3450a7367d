"""The app: routes, what they work with, and what stands around them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from nas.api import errors
from nas.api.authentication import Access
from nas.api.credentials import Token
from nas.api.devices import Devices
from nas.api.jobs import Jobs
from nas.api.metrics import Metrics
from nas.api.middleware import Observer
from nas.api.routes import devices, searches, system
from nas.api.searches import Searches
from nas.api.settings import Settings

_THREADS = 32  # for what blocks beside an async route
_STATIC = Path(str(files("nas.api") / "static"))
_ABOUT = """Searches for the best version of a trained transformer within a latency budget, as a service.

Every request but those for this document, the page and `/healthz` needs `Authorization: Bearer TOKEN`. The role is at
each route as `x-role`: `read` may look, `submit` may also start and cancel searches, `device` may only upload profiles
and certificates.
"""


def create_app(settings: Settings, jobs: Jobs, tokens: Callable[[], tuple[Token, ...]]) -> FastAPI:
    """The app.

    Args:
        jobs: what runs the searches; closed when the app ends.
        tokens: those that are valid now, asked at every request.
    """
    app = FastAPI(
        title="nas", version=version("nas"), description=_ABOUT, lifespan=_run_until_end, docs_url=None,
        redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.settings, app.state.jobs = settings, jobs
    app.state.access = Access(tokens, settings.limits.per_minute)
    app.state.searches = Searches(settings.searches, jobs, settings.roots, settings.extra_arguments)
    app.state.devices, app.state.metrics = Devices(app.state.searches), Metrics()
    app.state.limiter = CapacityLimiter(_THREADS)
    for router in (searches.router, devices.router, system.router, system.public):
        app.include_router(router)
    app.add_api_route("/", _serve_page, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    errors.install(app)
    app.add_middleware(Observer, metrics=app.state.metrics)
    return app


@asynccontextmanager
async def _run_until_end(app: FastAPI) -> AsyncIterator[None]:
    yield
    await to_thread.run_sync(app.state.jobs.close)


async def _serve_page() -> FileResponse:
    return FileResponse(_STATIC / "index.html", media_type="text/html")
