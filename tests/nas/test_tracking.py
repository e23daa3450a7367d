"""What is logged to MLflow can be compared: one parent run, children with the same keys, artifacts in their place."""

import os
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from nas.tracking import CandidateRun, SearchRun, log_search, tracking_uri


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
    assert paths == {"pareto.png", "winner"}
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
