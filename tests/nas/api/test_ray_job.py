"""A search as a job of a real Ray cluster: its token, its exit code, its last line, and what stopping leaves."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_search import NAS, finished, make, search_arguments

pytestmark = pytest.mark.slow

PROGRAMS = Path(sys.executable).parent  # where `ray` and `nas` are


@dataclass(frozen=True)
class Cluster:
    """A head node with a dashboard at `address`; `environment` has what is needed to be let in."""

    address: str
    environment: dict[str, str]
    token: str

    def ray(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        command = [str(PROGRAMS / "ray"), *arguments]
        known = {"env": environment or self.environment, "capture_output": True, "text": True, "timeout": 300}
        return subprocess.run(command, check=False, **known)

    def submit(self, name: str, nas: list[str], *more: str) -> subprocess.CompletedProcess:
        return self.ray("job", "submit", "--address", self.address, "--submission-id", name, *more, "--", "nas", *nas)

    def ask(self, path: str, method: str = "GET") -> Any:
        known = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(self.address + path, headers=known, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def last_line(self, name: str) -> dict[str, Any]:
        """The last line of the job's log, which has both of its streams, as JSON."""
        return json.loads(self.ask(f"/api/jobs/{name}/logs")["logs"].splitlines()[-1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    token = secrets.token_hex(32)
    (folder / "token").write_text(token)
    environment = {
        **os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "HOME": str(folder), "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_JOB_STOP_WAIT_TIME_S": "120",
        "NAS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    dashboard, agent, client = free_ports(3)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as short:  # for its sockets
        command = [
            PROGRAMS / "ray", "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", "--port=0",
            "--include-dashboard=true", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
            f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={short}",
        ]  # fmt: skip
        with (folder / "log").open("w") as log:
            head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            found = Cluster(f"http://127.0.0.1:{dashboard}", environment, token)
            wait_until_it_answers(found, head, folder / "log")
            yield found
        finally:
            head.send_signal(signal.SIGTERM)  # it stops the processes that it started
            head.wait(60)


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until_it_answers(cluster: Cluster, head: subprocess.Popen, log: Path) -> None:
    for _ in range(240):
        assert head.poll() is None, log.read_text()
        try:
            assert cluster.ask("/api/version")["ray_version"]
            return
        except urllib.error.URLError:
            time.sleep(0.5)
    raise AssertionError(f"no dashboard after two minutes: {log.read_text()}")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("tiny"))


def asked(tiny: Path, out: Path, budget: str, trials: int, executor: str = "local") -> list[str]:
    more = ["--target", "jetson-orin", "--budget", budget, "--trials", str(trials), "--executor", executor, "--json"]
    return search_arguments(tiny, out, *more)


def test_the_last_line_of_the_log_is_the_result(cluster: Cluster, tiny: Path, tmp_path: Path) -> None:
    winners = []
    for executor in ("local", "ray"):
        out = tmp_path / executor
        done = cluster.submit(executor, asked(tiny, out, "0.6x", 8, executor))
        assert done.returncode == 0, done.stdout + done.stderr
        job = cluster.ask(f"/api/jobs/{executor}")
        assert (job["status"], job["driver_exit_code"]) == ("SUCCEEDED", 0)
        document = cluster.last_line(executor)
        assert document == json.loads((out / "result.json").read_text())
        shown = cluster.ray("job", "logs", "--address", cluster.address, executor).stdout  # as a person gets at it
        assert json.loads(shown.splitlines()[-1]) == document
        winners.append(document["winner"]["architecture"])
    assert winners[0] == winners[1]


def test_a_budget_that_nothing_meets_is_exit_code_3(cluster: Cluster, tiny: Path, tmp_path: Path) -> None:
    done = cluster.submit("impossible", asked(tiny, tmp_path / "out", "0.01x", 6))
    assert done.returncode == 1  # what `ray job submit` makes of any failure
    job = cluster.ask("/api/jobs/impossible")
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 3)
    error = cluster.last_line("impossible")["error"]
    assert (error["kind"], error["exit_code"]) == ("NoFeasibleCandidate", 3)
    assert error["closest_ms"] > error["budget_ms"]


def test_wrong_use_is_exit_code_2(cluster: Cluster) -> None:
    cluster.submit("wrong", ["search", "--target", "jetson-orin", "--budget", "20", "--json"])
    assert cluster.ask("/api/jobs/wrong")["driver_exit_code"] == 2
    assert cluster.last_line("wrong")["error"]["kind"] == "BadBudget"


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_without_the_token_nothing_is_submitted(cluster: Cluster, token: str | None, tmp_path: Path) -> None:
    before = cluster.ask("/api/jobs/")
    outsider = {name: value for name, value in cluster.environment.items() if not name.startswith("RAY_")}
    outsider |= {"HOME": str(tmp_path)}  # where Ray looks last
    outsider |= {} if token is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    submission = ["job", "submit", "--address", cluster.address, "--", "touch", str(tmp_path / "been-here")]
    refused = cluster.ray(*submission, environment=outsider)
    assert refused.returncode == 1
    assert ("Missing authentication token" if token is None else "Invalid authentication token") in refused.stderr
    assert cluster.ask("/api/jobs/") == before
    assert not (tmp_path / "been-here").exists()


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_stopped_job_is_gone_on_with(cluster: Cluster, tiny: Path, tmp_path: Path, executor: str) -> None:
    out, name = tmp_path / "out", f"stopped-{executor}"
    assert cluster.submit(name, asked(tiny, out, "0.5x", 5000, executor), "--no-wait").returncode == 0
    while not (out / "study.db").exists() or finished(out) < 3:
        assert cluster.ask(f"/api/jobs/{name}")["status"] in ("PENDING", "RUNNING")
        time.sleep(0.1)
    cluster.ask(f"/api/jobs/{name}/stop", "POST")  # what `ray job stop` asks for, a few seconds earlier
    while (status := cluster.ask(f"/api/jobs/{name}")["status"]) == "RUNNING":
        time.sleep(0.1)
    assert status == "STOPPED"
    error = cluster.last_line(name)["error"]
    assert (error["kind"], error["exit_code"]) == ("Interrupted", 130)
    assert error["resume_command"] == f"nas search --resume {out}"
    before = finished(out)
    assert before >= 3
    request = json.loads((out / "request.json").read_text())
    (out / "request.json").write_text(json.dumps({**request, "trials": before + 4, "executor": "local"}))
    resumed = [*NAS, *error["resume_command"].split()[1:], "--json"]
    done = subprocess.run(resumed, env=cluster.environment, capture_output=True, text=True, check=True, timeout=600)
    assert before <= json.loads(done.stdout)["search"]["trials"] <= before + 4  # fewer where there is no more to try
