"""A server to test: the real app over processes that only pretend to search."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from nas.api.app import create_app
from nas.api.credentials import Role, Token, create_token
from nas.api.jobs import Jobs, State
from nas.api.local_jobs import LocalJobs
from nas.api.model_roots import ModelRoots
from nas.api.settings import Limits, Settings

QUICK, ENDLESS, WRONG, STUBBORN = 0, 1, 2, 3  # what the pretended search does, by its seed

PRETENDED = f"""
import json, pathlib, signal, sys, time
given = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
seed, out = int(given.get("seed", 0)), pathlib.Path(given["out"])
stop = lambda *_: (print("asked to stop", flush=True), sys.exit(130))
signal.signal(signal.SIGINT, signal.SIG_IGN if seed == {STUBBORN} else stop)
signal.signal(signal.SIGTERM, signal.SIG_IGN if seed == {STUBBORN} else stop)
out.mkdir(parents=True, exist_ok=True)
print("searching for", given.get("budget"), "\\u00e4", flush=True)
if seed == {WRONG}:
    print(json.dumps({{"schema_version": 1, "error": {{"message": "nothing like it", "exit_code": 2}}}}), flush=True)
    sys.exit(2)
while seed in ({ENDLESS}, {STUBBORN}):
    print("still at it", flush=True)
    time.sleep(0.1)
for trial in range(3):
    print("trial", trial, file=sys.stderr, flush=True)
(out / "winner").mkdir(exist_ok=True)
(out / "winner" / "model.onnx").write_bytes(b"graph " + given["budget"].encode())
document = {{"schema_version": 1, "budget": given["budget"], "out": str(out)}}
(out / "result.json").write_text(json.dumps(document))
print(json.dumps(document, separators=(",", ":")), flush=True)
"""
COMMAND = (sys.executable, "-S", "-c", PRETENDED)
ASKED = {"target": "jetson-orin", "budget": "20ms"}


@dataclass
class Service:
    """An app, its parts, and a secret for each combination of roles."""

    app: FastAPI
    settings: Settings
    jobs: Jobs
    secrets: dict[str, str] = field(default_factory=dict)
    tokens: list[Token] = field(default_factory=list)

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets[who]}"}

    def client(self, who: str | None = "all") -> TestClient:
        """A client that is let in as `who`. As a context manager it starts the app, and ends it for good."""
        headers = {} if who is None else self.headers(who)
        return TestClient(self.app, headers=headers, raise_server_exceptions=False)


def service(
    root: Path, jobs: Jobs | None = None, roots: ModelRoots | None = None, limits: Limits | None = None, **options: Any
) -> Service:
    """A server in a folder; `options` are those of its jobs."""
    settings = Settings(root, roots or ModelRoots(), "http://mlflow.example:5000", (), limits or Limits())
    made: dict[str, str] = {}
    tokens: list[Token] = []
    for name, roles in {**{str(role): [role] for role in Role}, "all": list(Role)}.items():
        made[name], token = create_token(name, roles)
        tokens.append(token)
    jobs = jobs or LocalJobs(settings.jobs, COMMAND, **{"running": 2, "grace_s": 5.0, **options})
    return Service(create_app(settings, jobs, lambda: tuple(tokens)), settings, jobs, made, tokens)


@pytest.fixture(name="serve")
def serve_fixture() -> Iterator[Callable[..., Service]]:
    """Makes servers whose searches end with the test."""
    made: list[Service] = []

    def one(*arguments: Any, **options: Any) -> Service:
        made.append(service(*arguments, **options))
        return made[-1]

    yield one
    for each in made:
        each.jobs.close()


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for something."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


def submit(client: TestClient, **changes: Any) -> str:
    """Submit a search and return its id."""
    answer = client.post("/v1/searches", json=ASKED | changes)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def await_state(client: TestClient, id: str, *states: State) -> dict[str, Any]:
    """Wait until a search is in one of the states."""
    until(lambda: client.get(f"/v1/searches/{id}").json()["state"] in states)
    return dict(client.get(f"/v1/searches/{id}").json())


def events(text: str) -> list[tuple[str, str | None, Any]]:
    """(event, id, data) of a stream of server-sent events; heartbeats left out."""
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], fields.get("id"), json.loads(fields["data"])))
    return found
