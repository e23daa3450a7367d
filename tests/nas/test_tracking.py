"""What is logged to MLflow can be compared: one parent run, children with the same keys, artifacts in their place."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from nas.tracking import CandidateRun, SearchRun, log_search, tracking_uri, without_password


def candidate(number: int) -> CandidateRun:
    metrics = {"latency_ms.predicted_p50": 10.0 + number, "quality.kl": 0.1 * number, "params_m": 1.5}
    return CandidateRun(
        f"trial {number:03d} · evolution", "evolution", "attn+mlp mlp", f"{number:012x}", {"depth": 2}, {"n_mlp": 2},
        metrics, number < 3, number == 1,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> SearchRun:
    (tmp_path / "pareto.png").write_bytes(b"picture")
    (tmp_path / "winner").mkdir()
    (tmp_path / "winner" / "model.onnx").write_bytes(b"graph")
    return SearchRun(
        "python-lm", "jetson@maxn/fp16", "20ms", "**note**", {"seed": 0}, {"winner.kl": 0.2},
        [candidate(number) for number in range(5)], [tmp_path / "pareto.png"], {"winner": tmp_path / "winner"},
    )  # fmt: skip


def test_children_hang_under_the_search_with_the_same_keys(run: SearchRun, tmp_path: Path, monkeypatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    where = log_search(run, tracking_uri(None, tmp_path), tmp_path)
    assert where["run_id"]
    client = MlflowClient(where["tracking_uri"])
    experiment = client.get_experiment_by_name(where["experiment"])
    runs = client.search_runs([experiment.experiment_id])
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == where["run_id"]]
    assert len(runs) == 6
    assert len(children) == 5
    assert len({tuple(sorted(r.data.metrics)) for r in children}) == 1
    assert sum(r.data.metrics["feasible"] for r in children) == 3
    assert {r.data.tags["mlflow.runName"] for r in children} == {c.name for c in run.candidates}
    assert all(r.info.status == "FINISHED" for r in runs)
    paths = {item.path for item in client.list_artifacts(where["run_id"])}
    assert paths == {"architectures.json", "pareto.png", "winner"}
    written = Path(client.download_artifacts(where["run_id"], "architectures.json", str(tmp_path)))
    assert set(json.loads(written.read_text())) == {r.data.tags["nas.arch_hash"] for r in children}
    assert not list(elsewhere.iterdir())  # nothing lands in the current folder


def test_a_second_search_joins_the_experiment(run: SearchRun, tmp_path: Path) -> None:
    uri = tracking_uri(None, tmp_path)
    first, second = (log_search(run, uri, tmp_path) for _ in range(2))
    assert first["experiment"] == second["experiment"]
    assert first["run_id"] != second["run_id"]


def test_where_to_log(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert tracking_uri(None, tmp_path) == "http://server"
    assert tracking_uri("sqlite:///x.db", tmp_path) == "sqlite:///x.db"


def test_a_broken_store_is_reported_not_raised(run: SearchRun, tmp_path: Path) -> None:
    where = log_search(run, f"sqlite:///{tmp_path}/pareto.png/mlflow.db", tmp_path)  # a file is no folder
    assert where["run_id"] is None
    assert "not logged" in where["problem"]
    assert os.environ.get("MLFLOW_DISABLE_TELEMETRY") == "true"


def test_what_breaks_on_the_way_leaves_the_candidates_and_a_failed_run(run: SearchRun, tmp_path: Path) -> None:
    broken = replace(run, files=[tmp_path / "no-such-picture.png"])
    where = log_search(broken, tracking_uri(None, tmp_path), tmp_path)
    assert "not completely logged" in where["problem"]
    client = MlflowClient(where["tracking_uri"])
    search = client.get_run(where["run_id"])
    assert search.info.status == "FAILED"
    assert (
        len(client.search_runs([search.info.experiment_id], f"tags.mlflow.parentRunId = '{search.info.run_id}'")) == 5
    )


def test_nobody_waits_for_a_server_that_does_not_answer(run: SearchRun, tmp_path: Path, monkeypatch) -> None:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    before, start = dict(os.environ), time.monotonic()
    where = log_search(run, "http://someone:secret@127.0.0.1:9", tmp_path)
    assert time.monotonic() - start < 60  # MLflow's own retries take four minutes
    assert where["run_id"] is None
    assert "secret" not in json.dumps(where)
    assert {key for key in os.environ if "HTTP_REQUEST" in key} == {key for key in before if "HTTP_REQUEST" in key}


def test_artifacts_lie_beside_the_database_they_belong_to(run: SearchRun, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    where = log_search(run, f"sqlite:///{shared}/all.db", tmp_path / "out")
    experiment = MlflowClient(where["tracking_uri"]).get_experiment_by_name(where["experiment"])
    assert experiment.artifact_location == (shared / "mlartifacts").as_uri()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:pa@ss@db:5432/runs", "postgresql://me:***@db:5432/runs"),
        ("http://server:5000", "http://server:5000"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_passwords_are_not_shown(uri: str, shown: str) -> None:
    assert without_password(uri) == shown
