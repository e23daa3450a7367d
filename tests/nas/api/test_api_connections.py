"""What a client can take without a token, by a server with small limits on loopback."""

import asyncio
import json
import logging
import resource
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from serving_kit import Service, serve_fixture, until  # noqa: F401

from nas.api.connection import build_connection_class, count_possible_connections
from nas.api.server import log_as_json
from nas.api.settings import Limits

LIMITS = Limits(connections=4, head_s=0.6, body_s=0.6, unread_s=0.6)
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n"
RETRY_TIMEOUT_S = 10.0  # of a test for the server, which may share a core with others
Address = tuple[str, int]


@pytest.fixture(name="address")
def running(tmp_path: Path, serve: Callable[..., Service]) -> Iterator[Address]:
    """The address of the whole app."""
    with listening(serve(tmp_path / "root").app) as server:
        yield address_of(server)


@contextmanager
def listening(app: Any, **options: Any) -> Iterator[uvicorn.Server]:
    """A server of an app in a thread."""
    config = uvicorn.Config(app, port=0, log_config=None, http=build_connection_class(LIMITS), ws="none", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield server
    finally:
        server.should_exit = True
        thread.join(RETRY_TIMEOUT_S)


def address_of(server: uvicorn.Server) -> Address:
    return tuple(server.servers[0].sockets[0].getsockname())


def connect(address: Address) -> socket.socket:
    return socket.create_connection(address, RETRY_TIMEOUT_S)


def rest(client: socket.socket) -> bytes:
    """Everything until the server closes the connection; an error of the socket if it does not."""
    found = b""
    with client:
        while part := client.recv(1 << 16):
            found += part
    return found


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nhost: here\r\n"])
def test_who_does_not_finish_the_head_of_a_request_is_let_go(address: Address, begun: bytes) -> None:
    client = connect(address)
    client.sendall(begun)
    assert rest(client).startswith(b"HTTP/1.1 408 ")


def test_bytes_that_drip_put_the_end_off_by_nothing(address: Address) -> None:
    client, began = connect(address), time.monotonic()
    client.sendall(b"GET /healthz HTTP/1.1\r\n")
    with suppress(OSError), client:  # reset, or a broken pipe
        while time.monotonic() - began < RETRY_TIMEOUT_S:
            client.sendall(b"a: b\r\n")
            time.sleep(0.1)
    assert time.monotonic() - began < RETRY_TIMEOUT_S


@pytest.mark.parametrize("path", ["/v1/searches", "/v1/profiles", "/healthz"])
def test_who_does_not_finish_a_body_is_let_go(address: Address, path: str) -> None:
    client = connect(address)
    client.sendall(f"POST {path} HTTP/1.1\r\nhost: here\r\ncontent-length: 100\r\n\r\n{{".encode())
    answer = rest(client)
    assert answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 405 "))  # said without the body, and then closed
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_body_that_is_waited_for_ends_with_408() -> None:
    async def waits(scope: dict, receive: Callable, send: Callable) -> None:
        seen.append((await receive())["type"])
        seen.append((await receive())["type"])

    seen: list[str] = []
    with listening(waits, lifespan="off") as server:
        client = connect(address_of(server))
        client.sendall(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 100\r\n\r\n{")
        assert rest(client).startswith(b"HTTP/1.1 408 ")
        until(lambda: seen == ["http.request", "http.disconnect"])


def test_quick_clients_are_served_as_ever(address: Address) -> None:
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=RETRY_TIMEOUT_S) as client:
        for pause in (0.0, 0.0, 0.3):
            time.sleep(pause)
            assert client.get("/healthz").json() == {"status": "ok"}
    client = connect(address)
    client.sendall(HEALTH * 3)  # all at once
    assert rest(client).count(b'{"status":"ok"}') == 3


def test_where_there_is_no_room_the_one_that_waited_longest_makes_it(address: Address) -> None:
    waiting = [connect(address) for _ in range(LIMITS.connections)]
    newest = connect(address)
    newest.sendall(HEALTH)
    assert newest.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert rest(waiting[0]).startswith(b"HTTP/1.1 503 ")
    for client in (*waiting[1:], newest):
        client.close()


def test_who_does_not_read_the_answer_is_let_go() -> None:
    disconnected = threading.Event()

    async def endless(scope: dict, receive: Callable, send: Callable) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await asyncio.wait_for(_sent(send), RETRY_TIMEOUT_S)) and not disconnected.is_set():
            pass

    async def _sent(send: Callable) -> bool:
        await send({"type": "http.response.body", "body": b"x" * (1 << 20), "more_body": True})
        return True

    with listening(endless, lifespan="off") as server, connect(address_of(server)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
        until(lambda: len(server.server_state.connections) == 1)
        until(lambda: not server.server_state.connections)
        disconnected.set()


def test_there_are_no_more_connections_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [(256, 512)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: kept[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: kept.append(limits))
    assert count_possible_connections(100) == 100
    assert count_possible_connections(2048) == 512 - 128
    assert kept[-1] == (512, 512)


def test_every_line_of_the_log_is_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    for name in ("handlers", "level"):
        monkeypatch.setattr(root, name, getattr(root, name))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    before = {name: logging.getLogger(name) for name in list(logging.root.manager.loggerDict)}
    state = {name: (logger.handlers, logger.propagate) for name, logger in before.items()}
    log_as_json()
    try:
        logging.getLogger("asyncio").error("Exception in callback %s", "that one")
        logging.getLogger("nas.api").info("of our own")
        warnings.warn("of a library", stacklevel=1)
        with asyncio.Runner() as runner:
            runner.get_loop().call_exception_handler({"message": "a loop's", "exception": ValueError("why")})
        failing = threading.Thread(target=lambda: 1 / 0)
        failing.start()
        failing.join()
    finally:
        logging.captureWarnings(False)
        for name, (handlers, propagate) in state.items():
            before[name].handlers, before[name].propagate = handlers, propagate
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    message = [line["message"] for line in lines]
    assert message[:2] == ["Exception in callback that one", "of our own"]
    assert "of a library" in message[2]
    assert [line.get("traceback", "").splitlines()[-1:] for line in lines[3:]] == [
        ["ValueError: why"], ["ZeroDivisionError: division by zero"],
    ]  # fmt: skip
