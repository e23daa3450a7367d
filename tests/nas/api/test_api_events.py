"""Following a search over a real connection: in order, taken up again, given up, and without a thread for each."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from serving_kit import (  # noqa: F401
    ASKED,
    COMMAND,
    ENDLESS,
    WRONG,
    Service,
    await_state,
    events,
    serve_fixture,
    service,
    submit,
    until,
)

from nas.api.credentials import Role, TokenFile
from nas.api.jobs import State
from nas.api.settings import Limits

Serve = Callable[..., Service]
LINES = ["searching for 20ms ä", "trial 0", "trial 1", "trial 2"]


def test_a_search_is_told_from_its_beginning_to_its_end(tmp_path: Path, serve: Serve) -> None:
    client = serve(tmp_path).client()
    id = submit(client)
    answer = client.get(f"/v1/searches/{id}/events")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    reported = events(answer.text)
    assert [data["line"] for event, _, data in reported if event == "log"] == LINES
    assert json.loads(next(data["line"] for event, _, data in reported if event == "document"))["budget"] == "20ms"
    states = [data["state"] for event, _, data in reported if event == "state"]
    assert states[-1] == "succeeded"
    assert states == sorted(states, key=["queued", "running", "succeeded"].index)
    assert [event for event, _, _ in reported if event == "end"] == ["end"]
    assert reported[-1][0] == "end"
    assert reported[-1][2]["id"] == id


def test_it_is_taken_up_after_any_event(tmp_path: Path, serve: Serve) -> None:
    client = serve(tmp_path).client()
    id = submit(client, seed=WRONG)
    await_state(client, id, State.FAILED)
    whole = events(client.get(f"/v1/searches/{id}/events").text)

    def lines(reported: list) -> list:
        return [entry for entry in reported if entry[0] in ("log", "document")]

    for position, (_, last, _) in enumerate(whole):
        rest = events(client.get(f"/v1/searches/{id}/events", headers={"Last-Event-ID": last}).text)
        assert lines(rest) == lines(whole[position + 1 :])
        assert rest[-1][0] == "end"
    for wrong in ("0-0", "1", "x", "1-1-1", "-1-5", "1-" + "9" * 16, "9999999-0"):
        answer = client.get(f"/v1/searches/{id}/events", headers={"Last-Event-ID": wrong})
        assert answer.status_code == 422
    far = events(client.get(f"/v1/searches/{id}/events", headers={"Last-Event-ID": "1-999999999"}).text)
    assert [event for event, _, _ in far] == ["state", "end"]


def test_a_search_that_went_on_is_told_run_after_run(tmp_path: Path, serve: Serve) -> None:
    client = serve(tmp_path).client()
    id = submit(client, seed=WRONG)
    await_state(client, id, State.FAILED)
    client.post(f"/v1/searches/{id}/resume")
    until(lambda: client.get(f"/v1/searches/{id}").json()["state"] == "failed")
    reported = events(client.get(f"/v1/searches/{id}/events").text)
    logged = [(last.split("-")[0], data["line"]) for event, last, data in reported if event == "log"]
    assert logged == [("1", LINES[0]), ("2", LINES[0])]
    assert [event for event, _, _ in reported].count("end") == 1
    last = next(last for event, last, _ in reported if event == "log")
    rest = events(client.get(f"/v1/searches/{id}/events", headers={"Last-Event-ID": last}).text)
    assert [data["line"] for event, _, data in rest if event == "log"] == [LINES[0]]


# Over a real server.


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str]]:
    """A server in a thread, and its address."""
    served = service(tmp_path_factory.mktemp("live"), limits=Limits(followers=210, per_minute=10**6))
    config = uvicorn.Config(served.app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield served, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


def followers(served: Service) -> int:
    return served.app.state.metrics.following


def test_lines_come_while_the_search_runs_and_a_client_that_leaves_is_forgotten(live: tuple[Service, str]) -> None:
    served, address = live
    with httpx.Client(base_url=address, headers=served.headers("submit"), timeout=20) as client:
        id = client.post("/v1/searches", json=ASKED | {"seed": ENDLESS}).json()["id"]
        with client.stream("GET", f"/v1/searches/{id}/events") as stream:
            lines = stream.iter_lines()
            seen: list[str] = []
            while seen.count("event: log") < 5:
                seen.append(next(lines))
            assert client.get(f"/v1/searches/{id}").json()["state"] == "running"
            assert followers(served) == 1
        until(lambda: followers(served) == 0)
        client.post(f"/v1/searches/{id}/cancel")
        reported = events(client.get(f"/v1/searches/{id}/events").text)
        assert reported[-1][0] == "end"
        assert reported[-1][2]["state"] == "cancelled"


def test_sixty_follow_at_once_with_no_thread_for_each(live: tuple[Service, str]) -> None:
    served, address = live
    import asyncio

    async def follow_all() -> int:
        limits = httpx.Limits(max_connections=300)
        async with httpx.AsyncClient(
            base_url=address, headers=served.headers("all"), timeout=60, limits=limits
        ) as client:
            id = (await client.post("/v1/searches", json=ASKED | {"seed": ENDLESS})).json()["id"]
            going = [asyncio.create_task(client.get(f"/v1/searches/{id}/events")) for _ in range(60)]
            while followers(served) < 60:
                await asyncio.sleep(0.05)
            threads = threading.active_count()
            await client.post(f"/v1/searches/{id}/cancel")
            ends = [events((await answer).text)[-1][0] for answer in going]
            assert ends == ["end"] * 60
            return threads

    assert asyncio.run(follow_all()) < 60
    until(lambda: followers(served) == 0)


def test_more_than_the_most_are_sent_away(tmp_path: Path, serve: Serve) -> None:
    served = serve(tmp_path, limits=Limits(followers=0))
    client = served.client()
    answer = client.get(f"/v1/searches/{submit(client)}/events")
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "too_many_followers"


# The program itself.

PROGRAM = """
import sys
from nas.api import server
command = tuple(sys.argv[1:sys.argv.index("--")])
server.find_program = lambda: command
sys.argv[1:] = sys.argv[sys.argv.index("--") + 1:]
from nas.cli import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_ends_gracefully_and_what_ran_can_go_on(tmp_path: Path, number: signal.Signals) -> None:
    import socket

    secret = TokenFile(tmp_path / "tokens.toml").add("tester", [Role.SUBMIT])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-c", PROGRAM, *COMMAND, "--", "serve", "--port", str(port), "--root", str(tmp_path / "root"),
        "--tokens", str(tmp_path / "tokens.toml"), "--mlflow", "http://mlflow.example:5000",
    ]  # fmt: skip
    log = tmp_path / "log"
    with log.open("wb") as errors, subprocess.Popen(command, stderr=errors, stdout=errors) as server:
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {secret}"}, timeout=20
        )
        until(lambda: _answers(client) or server.poll() is not None)
        id = client.post("/v1/searches", json=ASKED | {"seed": ENDLESS}).json()["id"]
        with client.stream("GET", f"/v1/searches/{id}/events") as stream:
            lines = stream.iter_lines()
            while "still at it" not in next(lines):
                pass
            began = time.monotonic()
            os.kill(server.pid, number)
            rest = list(lines)
        assert server.wait(30) == 0
        assert time.monotonic() - began < 20
        assert not any("event: end" in line for line in rest)
    record = json.loads((tmp_path / "root" / "jobs" / id / "job.json").read_text())
    assert (record["state"], record["exit_code"]) == ("interrupted", 130)
    text = log.read_text()
    assert "Traceback" not in text
    assert secret not in text
    requests = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert {line["token"] for line in requests if line["message"] == "request"} <= {"tester", None}
    assert any(line.get("route") == "/v1/searches/{id}/events" for line in requests)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False
