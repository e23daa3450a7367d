"""Running the app: where jobs go, who may come in, and the server around it."""

import ipaddress
import logging
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from nas.api.app import create_app
from nas.api.credentials import Role, Token, TokenFile, create_token
from nas.api.jobs import Jobs
from nas.api.local_jobs import LocalJobs
from nas.api.middleware import JsonLines
from nas.api.ray_jobs import RayJobs
from nas.api.settings import Settings
from nas.storage.redact import remove_password
from search_spaces.errors import UsageError

LOCAL = "local"
_DRAIN_S = 10  # for requests in hand, from the signal to end


@dataclass(frozen=True)
class Address:
    """Where the server listens; TLS with a certificate and its key."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None


def serve(settings: Settings, address: Address, jobs: Jobs, tokens: Callable[[], tuple[Token, ...]]) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    import uvicorn

    from nas.api.connection import build_connection_class, count_possible_connections

    log_as_json()
    limits = replace(settings.limits, connections=count_possible_connections(settings.limits.connections))
    config = uvicorn.Config(
        create_app(settings, jobs, tokens), host=address.host, port=address.port, log_config=None, access_log=False,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=_DRAIN_S,
        http=build_connection_class(limits),
        ws="none", ssl_certfile=address.certificate, ssl_keyfile=address.key,
    )  # fmt: skip
    with suppress(KeyboardInterrupt):  # the signal that ended it, which it passes on when everything is done
        uvicorn.Server(config).run()


def open_jobs(backend: str, settings: Settings, running: int, queued: int) -> Jobs:
    """What runs the searches: `local`, or the cluster of a dashboard's address.

    Raises:
        UsageError: it is neither.
    """
    if backend == LOCAL:
        return LocalJobs(settings.jobs, find_program(), running, queued)
    if urlsplit(backend).scheme not in ("http", "https") or not urlsplit(backend).hostname:
        raise UsageError(
            f"jobs {remove_password(backend)!r} is neither {LOCAL} nor the address of a Ray dashboard; http://HEAD:8265"
        )
    return RayJobs(backend)


def find_program() -> tuple[str, ...]:
    """The `nas` program of this installation."""
    beside = Path(sys.executable).with_name("nas")
    path = str(beside) if beside.is_file() else shutil.which("nas")
    return (path,) if path else (sys.executable, "-c", "from nas.cli import main; main()")


def lock(root: Path) -> AbstractContextManager[object]:
    """A folder for this server alone: two would run one queue twice.

    Raises:
        UsageError: another server has it, or it cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        held = FileLock(root / ".lock")
        held.acquire(timeout=0)
        return held
    except Timeout:
        raise UsageError(f"root {root} belongs to a server that runs; give another --root") from None
    except OSError as error:
        raise UsageError(f"root {root} cannot be used ({error.strerror}); give a folder that can be written") from None


def prepare_tokens(file: Path | None, host: str) -> tuple[Callable[[], tuple[Token, ...]], str | None]:
    """The valid tokens, and the secret of one that was made for this run, where there is no file.

    Raises:
        UsageError: there is no file and others could reach the server, or the file cannot be read.
    """
    if file is not None:
        kept = TokenFile(file)
        if not kept.read_tokens():
            raise UsageError(f"tokens file {file} holds no token; make one with nas token create")
        return kept.read_tokens, None
    if not is_loopback(host):
        raise UsageError(
            f"host {host} can be reached by others, so tokens are needed; make a file with nas token create NAME "
            "--role submit --tokens FILE, and give it as --tokens FILE"
        )
    secret, token = create_token("local", Role)
    return lambda: (token,), secret


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_mlflow(url: str | None) -> str | None:
    """The address of a tracking server.

    Raises:
        UsageError: it is none, or has a password in it: it would stand in every search's command line.
    """
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"mlflow {remove_password(url)!r} is no address of a server; write for example http://mlflow:5000"
        )
    if parts.password:
        raise UsageError(
            f"mlflow at {parts.hostname}: leave the password out; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD where searches run"
        )
    return url


def log_as_json() -> None:
    """Every line of the log is one of JSON: the server's own, and what asyncio and the libraries complain of."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("nas.api").setLevel(logging.INFO)
    for name in list(logging.root.manager.loggerDict):  # a library's own handler would write lines of its own
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.captureWarnings(True)
    threading.excepthook = _log_thread


def _log_thread(failed: threading.ExceptHookArgs) -> None:
    """What a thread ends with goes where everything goes."""
    failure = (failed.exc_type, failed.exc_value, failed.exc_traceback)
    logging.getLogger("nas.api").error("a thread failed", exc_info=failure)  # type: ignore[arg-type]
