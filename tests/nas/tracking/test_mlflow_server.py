"""Against a real MLflow server: searches that log at once do not mix, one that is killed gets the rest later."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from nas.tracking import CandidateRun, SearchRun, Winner, log_page, log_search, send_pending
from nas.tracking.new_database import create_database
from nas.tracking.outbox import find_pending
from nas.tracking.registry import CHAMPION

AT_ONCE = 6


@dataclass
class Server:
    """`mlflow server` with a database and its own artifact store, on a free port of this machine."""

    folder: Path
    backend: str
    port: int
    log: Any
    process: "subprocess.Popen[bytes] | None" = None
    command: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--serve-artifacts", "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        settings = {"MLFLOW_BACKEND_STORE_URI": self.backend, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, env=os.environ | settings, stdout=self.log, stderr=self.log,
            start_new_session=True,
        )  # fmt: skip
        end = time.monotonic() + 120
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """As kill -9 of it and its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    backend = f"sqlite:///{folder / 'server.db'}"
    if request.param == "postgres":
        backend = request.getfixturevalue("postgres").database().replace("postgresql:", "postgresql+psycopg:")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NAS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        create_database(backend)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        running = Server(folder, backend, port, log)
        running.start()
        yield running
        running.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def search(out: Path, model: str, number: int = 0, candidates: int = 4, loss: float | None = None) -> SearchRun:
    """The run of a search whose every number tells `number`."""
    (out / "winner").mkdir(parents=True, exist_ok=True)
    (out / "winner" / "model.onnx").write_text(f"graph of {number}")
    runs = [
        CandidateRun(
            f"trial {step:03d} · evolution", "evolution", "attn+mlp mlp", f"{number:04x}{step:08x}", {"depth": 2},
            {"n_mlp": number}, {"quality.kl": number + step / 100}, True, False,
        )
        for step in range(candidates)
    ]  # fmt: skip
    first = None if loss is None else Winner(f"{model}_host_0.6x_0", loss, 5.0, True, True)
    return SearchRun(
        model, "host", "0.6x", "note", {"seed": number}, {"winner.kl": float(number)}, runs, (),
        {"winner": out / "winner"}, {"test": f"{number:016x}"}, first,
    )  # fmt: skip


def children(client: MlflowClient, where: dict[str, Any]) -> list[Any]:
    experiment = client.get_experiment_by_name(where["experiment"]).experiment_id
    return list(client.search_runs([experiment], f"tags.mlflow.parentRunId = '{where['run_id']}'"))


def test_searches_that_log_to_one_new_experiment_at_once_do_not_mix(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    together = threading.Barrier(AT_ONCE)

    def log(number: int) -> dict[str, Any]:
        out = tmp_path / str(number)
        run = search(out, "at-once", number, loss=0.9 - number / 10)
        together.wait()
        return log_search(run, server.uri, out)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        logged = list(pool.map(log, range(AT_ONCE)))
    assert [where.get("problem") for where in logged] == [None] * AT_ONCE
    assert capsys.readouterr().out == ""  # where a program reads the result
    client = MlflowClient(server.uri)
    assert len({where["run_id"] for where in logged}) == AT_ONCE
    assert len([each for each in client.search_experiments() if "at-once" in each.name]) == 1
    for number, where in enumerate(logged):
        mine = children(client, where)
        assert {(each.data.params["n_mlp"], int(each.data.metrics["quality.kl"])) for each in mine} == {
            (str(number), number)
        }
        assert len(mine) == 4
        path = client.download_artifacts(where["run_id"], "winner/model.onnx", str(tmp_path))
        assert Path(path).read_text() == f"graph of {number}"
    name = logged[0]["registered_model"]["name"]
    assert sorted(int(where["registered_model"]["version"]) for where in logged) == list(range(1, AT_ONCE + 1))
    best = client.get_model_version_by_alias(name, CHAMPION)
    assert (best.run_id, best.tags["nas.quality"]) == (logged[-1]["run_id"], repr(0.9 - (AT_ONCE - 1) / 10))
    from mlflow.artifacts import download_artifacts

    folder = download_artifacts(best.source, dst_path=str(tmp_path), tracking_uri=server.uri)
    assert (Path(folder) / "model.onnx").read_text() == f"graph of {AT_ONCE - 1}"


def test_of_a_server_that_is_killed_in_the_middle_nothing_is_lost_or_doubled(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, count, batches = tmp_path / "out", 8, Counter[str]()
    run = search(out, "killed", 7, count, loss=0.5)
    (out / "result.json").write_text(json.dumps({"schema_version": 1, "mlflow": {}}))
    log_batch = MlflowClient.log_batch

    def killed_under(client: MlflowClient, *arguments: Any, **options: Any) -> Any:
        batches["sent"] += 1
        if batches["sent"] == 5:  # the fourth candidate has a run and nothing in it
            server.kill()
        return log_batch(client, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_batch", killed_under)
        where = log_search(run, server.uri, out)
    assert where["run_id"]
    assert "not completely logged" in where["problem"]
    assert find_pending(out) is not None
    still_away = send_pending(out)
    assert still_away is not None
    assert "not logged to MLflow" in still_away["problem"]
    server.start()
    client = MlflowClient(server.uri)
    half = children(client, where)
    assert Counter(each.info.status for each in half) == {"FINISHED": 3, "RUNNING": 1}
    sent = send_pending(out)
    assert sent is not None
    assert (sent["run_id"], sent.get("problem"), find_pending(out)) == (where["run_id"], None, None)
    assert sent["registered_model"]["champion"]
    experiment = client.get_experiment_by_name(sent["experiment"]).experiment_id
    parents = [each for each in client.search_runs([experiment]) if "mlflow.parentRunId" not in each.data.tags]
    assert [(each.info.run_id, each.info.status) for each in parents] == [(where["run_id"], "FINISHED")]
    found = Counter((each.data.tags["nas.arch_hash"], each.info.status) for each in children(client, sent))
    assert found == {(candidate.digest, "FINISHED"): 1 for candidate in run.candidates}
    assert {each.data.metrics["quality.kl"] for each in children(client, sent)} == {
        candidate.metrics["quality.kl"] for candidate in run.candidates
    }
    assert json.loads((out / "result.json").read_text())["mlflow"] == sent
    (out / "report.html").write_text("<!doctype html>")
    log_page(out / "report.html", out)
    assert "report.html" in {item.path for item in client.list_artifacts(sent["run_id"])}
