"""A PostgreSQL server for tests: of its own, in a temporary folder, on a free port, killed and restarted at will."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

USER, PASSWORD = "nas", "secret word@{0}"
QUOTED = "secret%20word%40%7B0%7D"  # as it is written into a URL
WAIT_S = 60.0


class Postgres:
    """One server; its data survive `kill` and `start`."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self._folder, self._binaries = folder, binaries
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def create(self) -> None:
        """Make the files of an empty server."""
        word = self._folder / "password"
        word.write_text(PASSWORD)
        word.chmod(0o644)
        asked = ["-D", self._data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={word}", "--no-sync", "--no-locale"]
        made = subprocess.run(
            [self._binaries / "initdb", *asked, "-E", "UTF8"], capture_output=True, text=True, **_unprivileged()
        )
        assert made.returncode == 0, made.stderr

    def start(self) -> None:
        """Start it where it is not running and wait until it answers; after `kill` it recovers first."""
        with self._starting:
            self._start()

    def _start(self) -> None:
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        deadline = time.monotonic() + WAIT_S
        while True:
            if self._process is None or self._process.poll() is not None:  # the killed one's memory may be held a while
                with (self._folder / "log").open("ab") as log:
                    self._process = subprocess.Popen(
                        [self._binaries / "postgres", "-D", self._data, *options],
                        stdout=log, stderr=log, **_unprivileged(),
                    )  # fmt: skip
            with suppress(psycopg.OperationalError), self._connection():
                return
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """As a machine that loses its power: no process of the server gets to end anything."""
        assert self._process is not None
        processes = [self._process.pid, *_children(self._process.pid)]
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"db_{uuid.uuid4().hex}"
        with self._connection() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return f"postgresql://{USER}:{QUOTED}@127.0.0.1:{self.port}/{name}"

    def _connection(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname="postgres", autocommit=True
        )

    @property
    def _data(self) -> Path:
        return self._folder / "data"


@contextmanager
def server() -> Iterator[Postgres]:
    """A running server; the test is skipped where there are no binaries, or nobody to run them as."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed here")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        os.chown(folder, *_owner())
        postgres = Postgres(folder, binaries)
        postgres.create()
        postgres.start()
        try:
            yield postgres
        finally:
            postgres.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _binaries() -> Path | None:
    """The folder of the newest server: Debian puts it beside the PATH."""
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    named = shutil.which("initdb")
    folders = [*packaged, *([Path(named).parent] if named else [])]
    return next((path for path in folders if (path / "initdb").exists() and (path / "postgres").exists()), None)


def _unprivileged() -> dict[str, object]:
    """The server refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    user, group = _owner()
    return {"user": user, "group": group, "extra_groups": [], "cwd": "/"}


def _owner() -> tuple[int, int]:
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known.get("nobody")
    if entry is None:
        pytest.skip("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
    return entry.pw_uid, entry.pw_gid


def _children(process: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
