"""The HTTP service under load: many clients at once, on loopback, against a server in a process of its own.

    python experiments/benchmarks/api_load.py [--clients 200] [--seconds 60] [--pause 0]

Each client goes round without a pause: it asks for health, lists, looks at a search, submits one, follows one to its
end. The searches are a process that writes a few lines and a result; everything else is the real thing: tokens, files,
processes, events. Every answer is checked: its status, and that a search is the one that its client submitted.

Prints one JSON document: requests, errors, and milliseconds at the 50th, 95th and 99th percentile of every kind of
request (of `events` until the first event), then what became of the searches.
"""

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from nas.api import server
from nas.api.credentials import Role, TokenFile
from nas.api.local_jobs import LocalJobs
from nas.api.settings import Limits, Settings

SEARCH = """
import json, pathlib, sys
given = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
out = pathlib.Path(given["out"])
out.mkdir(parents=True)
for trial in range(5):
    print("trial", trial, given["budget"], flush=True)
(out / "result.json").write_text(json.dumps({"budget": given["budget"]}))
"""
MIX = {"health": 30, "list": 20, "get": 34, "result": 8, "submit": 4, "events": 4}  # of a hundred requests
ENDED = {"succeeded", "failed", "cancelled", "interrupted", "lost"}


def serve(root: Path, port: int, running: int) -> None:
    """The server, with room for what so many clients ask."""
    limits = Limits(per_minute=10**9, followers=10**6, free_bytes=0)
    settings = Settings(root, limits=limits)
    jobs = LocalJobs(settings.jobs, (sys.executable, "-S", "-c", SEARCH), running, queued=10**6)
    server.serve(settings, server.Address("127.0.0.1", port), jobs, TokenFile(root / "tokens.toml").read_tokens)


@dataclass
class Tally:
    """What the clients saw."""

    ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    submitted: dict[str, str] = field(default_factory=dict)  # id to budget

    def to_json(self, seconds: float) -> dict[str, object]:
        every = [ms for times in self.ms.values() for ms in times]
        return {
            "requests": len(every),
            "per_second": round(len(every) / seconds, 1),
            "errors": sum(self.errors.values()),
            "kinds_of_errors": dict(self.errors),
            "ms": compute_percentiles(every),
            "ms_of": {
                name: {"requests": len(times)} | compute_percentiles(times) for name, times in sorted(self.ms.items())
            },
        }


def compute_percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {f"p{p}": round(ordered[min(len(ordered) - 1, p * len(ordered) // 100)], 1) for p in (50, 95, 99)}


@dataclass
class Client:
    """One of many; it looks at its own searches, or at any."""

    http: httpx.AsyncClient
    number: int
    tally: Tally
    mine: list[str] = field(default_factory=list)

    async def go_round(self, until: float, pause: float) -> None:
        rng = random.Random(self.number)
        while time.monotonic() < until:
            name = rng.choices(list(MIX), MIX.values())[0] if self.mine else "submit"
            try:
                began = time.perf_counter()
                ended = await getattr(self, name)(rng)
                self.tally.ms[name].append(1000 * ((ended or time.perf_counter()) - began))
            except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
                self.tally.errors[f"{name}: {type(error).__name__} {error}"[:200]] += 1
            await asyncio.sleep(pause)

    async def get_answer(self, method: str, path: str, status: int = 200, **options: object) -> dict[str, object]:
        answer = await self.http.request(method, path, **options)  # type: ignore[arg-type]
        assert answer.status_code == status, f"{answer.status_code} {answer.text[:100]}"
        return dict(answer.json())

    async def check_health(self, rng: random.Random) -> None:
        await self.get_answer("GET", "/healthz")

    async def list(self, rng: random.Random) -> None:
        assert (await self.get_answer("GET", "/v1/searches?limit=20"))["searches"]

    async def get(self, rng: random.Random) -> None:
        id = rng.choice(self.mine)
        search = await self.get_answer("GET", f"/v1/searches/{id}")
        assert search["request"]["budget"] == self.tally.submitted[id], "another search"  # type: ignore[index]

    async def fetch_result(self, rng: random.Random) -> None:
        id = rng.choice(self.mine)
        answer = await self.http.get(f"/v1/searches/{id}/result")
        assert answer.status_code in (200, 404), answer.status_code
        if answer.status_code == 200:
            assert answer.json()["budget"] == self.tally.submitted[id], "another search"

    async def submit(self, rng: random.Random) -> None:
        budget = f"{self.number + 1}.{len(self.mine):04}ms"
        asked = {"target": "jetson-orin", "budget": budget}
        search = await self.get_answer("POST", "/v1/searches", 201, json=asked)
        self.mine.append(str(search["id"]))
        self.tally.submitted[str(search["id"])] = budget

    async def follow_events(self, rng: random.Random) -> float:
        """Follow the latest, for a while where the queue is long."""
        id, first, lines = self.mine[-1], 0.0, []
        try:
            async with asyncio.timeout(5), self.http.stream("GET", f"/v1/searches/{id}/events") as stream:
                assert stream.status_code == 200, stream.status_code
                async for line in stream.aiter_lines():
                    first = first or time.perf_counter()
                    lines += [line] if line.startswith('data: {"line":"trial') else []
        except TimeoutError:
            assert first, "no event within five seconds"
        assert all(line.endswith(f'{self.tally.submitted[id]}"}}') for line in lines), "another search's line"
        return first


async def load(address: str, secret: str, clients: int, seconds: float, pause: float) -> dict[str, object]:
    tally, headers = Tally(), {"Authorization": f"Bearer {secret}"}
    made = [httpx.AsyncClient(base_url=address, headers=headers, timeout=60) for _ in range(clients)]
    began = time.monotonic()
    rounds = (Client(http, n, tally).go_round(began + seconds, pause) for n, http in enumerate(made))
    await asyncio.gather(*rounds)
    document = tally.to_json(time.monotonic() - began)
    states = await count_ends(made[0], len(tally.submitted))
    for http in made:
        await http.aclose()
    return {"clients": clients, "seconds": seconds, "pause": pause, **document, "searches": states}


async def count_ends(http: httpx.AsyncClient, submitted: int) -> dict[str, int]:
    """How the searches ended, once all have."""
    while True:
        text = (await http.get("/metrics")).text
        counts = [line for line in text.splitlines() if line.startswith("nas_searches{")]
        states = {line.split('"')[1]: int(float(line.split()[-1])) for line in counts}
        if sum(states[state] for state in ENDED) >= submitted:
            return {"submitted": submitted} | {state: count for state, count in states.items() if count}
        await asyncio.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pause", type=float, default=0, help="seconds between two requests of a client")
    parser.add_argument("--running", type=int, default=2, help="searches at a time")
    parser.add_argument("--serve", nargs=2, metavar=("ROOT", "PORT"), help="be the server")
    given = parser.parse_args()
    if given.serve:
        serve(Path(given.serve[0]), int(given.serve[1]), given.running)
        return
    with tempfile.TemporaryDirectory(prefix="nas-load-") as folder, socket.socket() as free:
        secret = TokenFile(Path(folder) / "tokens.toml").add("load", [Role.SUBMIT])
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        command = [sys.executable, __file__, "--serve", folder, port, "--running", str(given.running)]
        with (Path(folder) / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            address = f"http://127.0.0.1:{port}"
            try:
                wait_for(address, process)
                print(
                    json.dumps(asyncio.run(load(address, secret, given.clients, given.seconds, given.pause)), indent=1)
                )
            finally:
                process.terminate()


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            httpx.get(f"{address}/healthz")
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit("the server does not start")


if __name__ == "__main__":
    main()
