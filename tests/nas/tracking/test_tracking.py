"""What is logged to MLflow can be compared, is there once however often it is sent, and is kept until it arrived."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from nas.tracking import (
    CandidateRun,
    Layout,
    SearchRun,
    Winner,
    get_tracking_uri,
    log_search,
    pull_winner,
    remove_password,
    send_pending,
)
from nas.tracking.layout import view_path
from nas.tracking.new_database import create_database
from nas.tracking.outbox import FILE, create_record, find_pending, keep
from nas.tracking.registry import build_former_name, build_model_name, find_best_version
from search_spaces import Architecture, Kind, Unit
from search_spaces.errors import TrackingError, UsageError


def candidate(number: int) -> CandidateRun:
    metrics = {"latency.p50_ms": 10.0 + number, "kl": 0.1 * number, "parameters": 1.5e6}
    return CandidateRun(
        f"trial {number:03d} · evolution", "evolution", "attn+mlp mlp", f"{number:012x}", {"depth": 2}, {"n_mlp": 2},
        metrics, number < 3, number == 1,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> SearchRun:
    """A search whose result folder is `tmp_path`, with an empty database where one is looked for by default."""
    create_database(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "pareto.png").write_bytes(b"picture")
    (tmp_path / "winner").mkdir()
    (tmp_path / "winner" / "model.onnx").write_bytes(b"graph")
    return SearchRun(
        "python-lm", "jetson@maxn/fp16", "20ms", "**note**", {"seed": 0}, {"kl": 0.2},
        [candidate(number) for number in range(5)], [tmp_path / "pareto.png"], {"winner": tmp_path / "winner"},
    )  # fmt: skip


def test_children_hang_under_the_search_with_the_same_keys(run: SearchRun, tmp_path: Path, monkeypatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    where = log_search(run, get_tracking_uri(None, tmp_path), tmp_path)
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
    assert find_pending(tmp_path) is None
    written = Path(client.download_artifacts(where["run_id"], "architectures.json", str(tmp_path)))
    assert set(json.loads(written.read_text())) == {r.data.tags["nas.arch_hash"] for r in children}
    assert not list(elsewhere.iterdir())  # nothing lands in the current folder


def test_a_winner_is_fetched_as_it_was_logged_by_name_by_version_and_by_run(run: SearchRun, tmp_path: Path) -> None:
    architecture, uri = Architecture(4).drop(Unit(1, Kind.MLP)), get_tracking_uri(None, tmp_path)
    (tmp_path / "winner" / "architecture.json").write_text(json.dumps(architecture.to_json()))
    tags = {"nas.arch_hash": architecture.digest, "nas.verdict": "ok"}
    logged = log_search(replace(run, winner=Winner("lm_host_0.6x", 0.5, 9.0, True, True, tags)), uri, tmp_path)
    for number, asked in enumerate(("lm_host_0.6x", "lm_host_0.6x@champion", "lm_host_0.6x/1", logged["run_id"])):
        pulled = pull_winner(asked, uri, tmp_path / "pulled" / str(number))
        assert pulled.run_id == logged["run_id"]
        assert (pulled.folder / "model.onnx").read_bytes() == b"graph"
        assert json.loads((pulled.folder / "architecture.json").read_text()) == architecture.to_json()
        assert (pulled.version, pulled.verdict) == ((None, "") if number == 3 else ("1", "ok"))
    assert len(list((tmp_path / "pulled").iterdir())) == 4
    with pytest.raises(UsageError, match="is there already"):
        pull_winner("lm_host_0.6x", uri, tmp_path / "pulled" / "0")
    for wrong in ("lm_host", "lm_host_0.6x/7", "lm_host_0.6x@best", "0" * 32):
        with pytest.raises(UsageError, match=r"registered there are lm_host_0\.6x"):
            pull_winner(wrong, uri, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_files_that_are_not_the_winner_s_are_not_taken_for_it(run: SearchRun, tmp_path: Path) -> None:
    uri = get_tracking_uri(None, tmp_path)
    winner = Winner("lm", 0.5, 9.0, True, True, {"nas.arch_hash": "other"})
    logged = log_search(replace(run, winner=winner), uri, tmp_path)
    for asked in ("lm", logged["run_id"]):  # the folder of the fixture has no architecture
        with pytest.raises(TrackingError, match=r"no architecture\.json"):
            pull_winner(asked, uri, tmp_path / "pulled")
    with pytest.raises(TrackingError, match="--tracking-uri"):
        pull_winner("lm", "http://someone:secret@127.0.0.1:9", tmp_path / "pulled")
    assert not [path for path in tmp_path.iterdir() if "pull" in path.name]


def test_curves_of_a_training_are_there_once_however_often_they_are_sent(run: SearchRun, tmp_path: Path) -> None:
    curve = [(step, 1 / (step + 1)) for step in range(1500)]  # more points than MLflow takes at once
    trained = replace(candidate(1), curves={"heal.validation_loss": [(0, 0.5), (4, 0.25)]})
    run = replace(run, candidates=[candidate(0), trained], curves={"heal.training_loss": curve})
    uri = get_tracking_uri(None, tmp_path)
    record = create_record(run, uri, tmp_path)
    for _ in range(2):
        keep(record, tmp_path)
        pending = find_pending(tmp_path)
        assert pending is not None
        assert pending.run == run
        where = send_pending(tmp_path, uri)
        assert where is not None
        client = MlflowClient(where["tracking_uri"])
        client.set_terminated(where["run_id"], status="FAILED")  # as if it had broken off at the end
    history = client.get_metric_history(where["run_id"], "heal.training_loss")
    assert sorted((point.step, point.value) for point in history) == curve
    (child,) = (
        each for each in client.search_runs([client.get_run(where["run_id"]).info.experiment_id])
        if each.data.tags["mlflow.runName"] == trained.name
    )  # fmt: skip
    points = client.get_metric_history(child.info.run_id, "heal.validation_loss")
    assert [(point.step, point.value) for point in points] == trained.curves["heal.validation_loss"]


def test_a_second_search_joins_the_experiment(run: SearchRun, tmp_path: Path) -> None:
    uri = get_tracking_uri(None, tmp_path)
    first, second = (log_search(run, uri, tmp_path) for _ in range(2))
    assert first["experiment"] == second["experiment"]
    assert first["run_id"] != second["run_id"]


def test_where_to_log(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert get_tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert get_tracking_uri(None, tmp_path) == "http://server"
    assert get_tracking_uri("sqlite:///x.db", tmp_path) == "sqlite:///x.db"


def test_a_broken_store_is_reported_not_raised(run: SearchRun, tmp_path: Path) -> None:
    where = log_search(run, f"sqlite:///{tmp_path}/pareto.png/mlflow.db", tmp_path)  # a file is no folder
    assert where["run_id"] is None
    assert "not logged" in where["problem"]
    assert os.environ.get("MLFLOW_DISABLE_TELEMETRY") == "true"


def test_what_breaks_on_the_way_leaves_the_candidates_and_a_failed_run(run: SearchRun, tmp_path: Path) -> None:
    broken = replace(run, files=[tmp_path / "no-such-picture.png"])
    where = log_search(broken, get_tracking_uri(None, tmp_path), tmp_path)
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
    assert f"nas track {tmp_path}" in where["problem"]
    kept = find_pending(tmp_path)
    assert kept is not None
    assert kept.run == run
    assert "secret" not in (tmp_path / FILE).read_text()


def test_artifacts_lie_beside_the_database_they_belong_to(run: SearchRun, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    create_database(f"sqlite:///{shared / 'all.db'}")
    where = log_search(run, f"sqlite:///{shared}/all.db", tmp_path / "out")
    experiment = MlflowClient(where["tracking_uri"]).get_experiment_by_name(where["experiment"])
    assert experiment.artifact_location == (shared / "mlartifacts").as_uri()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:pa@ss@db:5432/runs", "postgresql://me:***@db:5432/runs"),
        ("http://server:5000", "http://server:5000"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        (
            "postgresql://db/runs?user=me&password=pa%20ss&sslmode=on",
            "postgresql://db/runs?user=me&password=***&sslmode=on",
        ),
        ("https://server/?access_token=abc", "https://server/?access_token=***"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_passwords_are_not_shown(uri: str, shown: str) -> None:
    assert remove_password(uri) == shown


def children(client: MlflowClient, where: dict[str, Any]) -> list[Any]:
    experiment = client.get_run(where["run_id"]).info.experiment_id
    return list(client.search_runs([experiment], f"tags.mlflow.parentRunId = '{where['run_id']}'"))


def searches(client: MlflowClient, where: dict[str, Any]) -> list[Any]:
    experiment = client.get_experiment_by_name(where["experiment"]).experiment_id
    return [each for each in client.search_runs([experiment]) if "mlflow.parentRunId" not in each.data.tags]


def is_there_once(where: dict[str, Any], run: SearchRun) -> None:
    """One finished run of the search, under it every candidate once with its own numbers."""
    client = MlflowClient(where["tracking_uri"])
    (search,) = searches(client, where)
    assert (search.info.run_id, search.info.status) == (where["run_id"], "FINISHED")
    found = {
        (each.data.tags["mlflow.runName"], each.data.tags["nas.arch_hash"]): each for each in children(client, where)
    }
    assert len(found) == len(children(client, where)) == len(run.candidates)
    for one in run.candidates:
        child = found[one.name, one.digest]
        assert child.info.status == "FINISHED"
        assert child.data.metrics == {**one.metrics, "feasible": float(one.feasible)}
        assert [len(client.get_metric_history(child.info.run_id, key)) for key in one.metrics] == [1] * len(one.metrics)


def test_what_broke_off_is_completed_not_doubled(run: SearchRun, tmp_path: Path) -> None:
    broken = replace(run, files=[*run.files, tmp_path / "later.png"])
    first = log_search(broken, get_tracking_uri(None, tmp_path), tmp_path)
    assert first["problem"]
    (tmp_path / "result.json").write_text(json.dumps({"mlflow": first, "model": "x"}))
    (tmp_path / "later.png").write_bytes(b"late")
    sent = send_pending(tmp_path)
    assert sent == {key: first[key] for key in ("tracking_uri", "experiment", "run_id")}
    is_there_once(sent, run)
    assert json.loads((tmp_path / "result.json").read_text()) == {"mlflow": sent, "model": "x"}
    assert send_pending(tmp_path) is None


@pytest.mark.parametrize("call", [1, 3], ids=["the search", "a candidate"])
def test_an_answer_that_was_lost_doubles_nothing(
    call: int, run: SearchRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, calls = MlflowClient.create_run, []

    def answer_lost(client: MlflowClient, *arguments: Any, **options: Any) -> Any:
        made = create(client, *arguments, **options)
        calls.append(made)
        if len(calls) == call:
            raise ConnectionError("connection reset")
        return made

    monkeypatch.setattr(MlflowClient, "create_run", answer_lost)
    assert "connection reset" in log_search(run, get_tracking_uri(None, tmp_path), tmp_path)["problem"]
    sent = send_pending(tmp_path)
    assert sent is not None
    is_there_once(sent, run)
    assert len(calls) == 1 + len(run.candidates)  # what the lost answer was about was found again


def test_a_request_that_was_repeated_leaves_one_run(run: SearchRun, tmp_path: Path, monkeypatch) -> None:
    create = MlflowClient.create_run

    def twice(client: MlflowClient, *arguments: Any, **options: Any) -> Any:
        create(client, *arguments, **options)
        return create(client, *arguments, **options)

    broken = replace(run, files=[*run.files, tmp_path / "later.png"])
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "create_run", twice)
        log_search(broken, get_tracking_uri(None, tmp_path), tmp_path)
    (tmp_path / "later.png").write_bytes(b"late")
    sent = send_pending(tmp_path)
    assert sent is not None
    is_there_once(sent, run)


def test_a_search_that_is_resumed_replaces_what_it_could_not_send(run: SearchRun, tmp_path: Path) -> None:
    """Its numbers may differ; what was sent of the first attempt goes."""
    uri = get_tracking_uri(None, tmp_path)
    log_search(replace(run, files=[tmp_path / "no-such.png"]), uri, tmp_path)
    again = replace(run, params={"seed": 1}, candidates=[candidate(number) for number in range(3, 8)])
    is_there_once(log_search(again, uri, tmp_path), again)


def test_a_folder_that_was_moved_is_sent_from_where_it_is(run: SearchRun, tmp_path: Path) -> None:
    out, moved = tmp_path / "out", tmp_path / "moved"
    out.mkdir()
    for name in ("pareto.png", "winner"):
        shutil.move(tmp_path / name, out / name)
    there = replace(run, files=[out / "pareto.png"], folders={"winner": out / "winner"})
    assert log_search(there, f"sqlite:///{out}/pareto.png/no.db", out)["problem"]
    out.rename(moved)
    sent = send_pending(moved, f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert sent is not None
    assert "problem" not in sent
    names = {item.path for item in MlflowClient(sent["tracking_uri"]).list_artifacts(sent["run_id"])}
    assert names == {"architectures.json", "pareto.png", "winner"}


def test_a_password_that_was_not_kept_is_asked_for(run: SearchRun, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log_search(run, "http://someone:secret@127.0.0.1:9", tmp_path)
    with pytest.raises(UsageError, match=r"someone:\*\*\*@127.0.0.1:9 needs .* --tracking-uri"):
        send_pending(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    sent = send_pending(tmp_path)
    assert sent is not None
    is_there_once(sent, run)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "holds no result.json and nothing to send"),
        ("{", "is not a record of a search"),
        ('{"schema_version": 1, "id": "x"}', "is not a record of a search"),
        ('{"schema_version": 7}', "another version"),
    ],
)
def test_what_cannot_be_sent_is_said(content: str | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(UsageError, match=says):
        send_pending(tmp_path)


def winner(loss: float, certified: bool = True, feasible: bool = True) -> Winner:
    return Winner("m_host_0.6x_0123", loss, 5.0, certified, feasible, {"nas.metric": "kl"})


def test_the_best_winner_is_champion_whatever_comes_after_it(run: SearchRun, tmp_path: Path) -> None:
    uri, champions = get_tracking_uri(None, tmp_path), []
    order = [winner(0.4, certified=False), winner(0.3, feasible=False), winner(0.5), winner(0.6), winner(0.2)]
    order.append(winner(0.1, certified=False))
    for each in order:
        logged = log_search(replace(run, candidates=[], winner=each), uri, tmp_path)
        client = MlflowClient(uri)
        champions.append(int(client.get_model_version_by_alias(each.model, "champion").version))
        assert logged["registered_model"]["champion"] == (champions[-1] == int(logged["registered_model"]["version"]))
    # Predicted; one that breaks the budget; certified; worse; better; better but only predicted.
    assert champions == [1, 1, 3, 3, 5, 5]
    best = client.get_model_version_by_alias(winner(0).model, "champion")
    assert (best.tags["nas.quality"], best.tags["nas.ms"], best.tags["nas.certified"]) == ("0.2", "5.0", "true")
    from mlflow.artifacts import download_artifacts

    folder = download_artifacts(best.source, dst_path=str(tmp_path), tracking_uri=uri)
    assert (Path(folder) / "model.onnx").read_bytes() == b"graph"


def test_a_registry_that_fails_is_a_problem_and_the_winner_is_registered_later(
    run: SearchRun, tmp_path: Path, monkeypatch
) -> None:
    with_winner = replace(run, winner=winner(0.4))
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "set_registered_model_alias", lambda *_: 1 / 0)
        where = log_search(with_winner, get_tracking_uri(None, tmp_path), tmp_path)
    assert "the winner was not registered" in where["problem"]
    is_there_once(where, run)
    sent = send_pending(tmp_path)
    assert sent is not None
    assert sent["registered_model"] == {"name": winner(0).model, "version": "1", "champion": True}
    is_there_once(sent, run)


def test_names_of_registered_models_are_allowed_and_never_meet() -> None:
    from mlflow.utils.validation import _validate_model_name

    given = ["org/my: model", "jetson@maxn/fp16", "forward:batch=1,seq=64", "0.6x-p90"]
    name = build_model_name(given, ["weights", "data", "kl"])
    _validate_model_name(name)
    assert name.startswith("org-my-model_jetson-maxn-fp16_forward-batch=1,seq=64_0.6x-p90_")
    assert build_former_name(given, ["weights", "data", "kl"]).replace("@", "-") == name
    others = [
        build_model_name(["org-my-model", *given[1:]], ["weights", "data", "kl"]),
        build_model_name(given, ["w", "data", "kl"]),
    ]
    long = [build_model_name(["x" * 400, *given[1:]], ["1"]), build_model_name(["x" * 401, *given[1:]], ["1"])]
    assert len({name, *others, *long}) == 5
    assert max(map(len, long)) < 256


def test_what_was_registered_under_a_name_with_an_at_sign_is_compared_and_loads(
    run: SearchRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, former, name = get_tracking_uri(None, tmp_path), "m_jetson@maxn_0123", "m_jetson-maxn_0123"
    log_search(replace(run, candidates=[], winner=replace(winner(0.2), model=former)), uri, tmp_path)
    now = replace(winner(0.3), model=name, formerly=former)
    logged = log_search(replace(run, candidates=[], winner=now), uri, tmp_path)
    assert logged["registered_model"] == {"name": name, "version": "2", "champion": False}
    client = MlflowClient(uri)
    assert client.get_model_version_by_alias(name, "champion").version in (1, "1")
    assert [each.name for each in client.search_registered_models()] == [name]
    better = log_search(replace(run, candidates=[], winner=replace(now, loss=0.1)), uri, tmp_path)
    assert better["registered_model"] == {"name": name, "version": "3", "champion": True}
    from mlflow.artifacts import download_artifacts

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = download_artifacts(f"models:/{name}/1", dst_path=str(tmp_path))
    assert (Path(folder) / "model.onnx").read_bytes() == b"graph"


def test_the_page_of_the_experiment_has_a_view_with_the_columns_that_were_asked_for(
    run: SearchRun, tmp_path: Path
) -> None:
    """A person's own description stays; a record that was kept says how its page looks."""
    uri, layout = get_tracking_uri(None, tmp_path), Layout("kl", False, ("kl", "latency.p90_ms"))
    kept = replace(run, files=[tmp_path / "no-such.png"], layout=layout)
    where = log_search(kept, uri, tmp_path)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(where["experiment"])
    assert where["page"] == view_path(experiment.experiment_id)
    key = where["page"].partition("viewStateShareKey=")[2].partition("&")[0]
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`kl`", True)
    assert view["selectedColumns"][:2] == ["metrics.`kl`", "metrics.`latency.p90_ms`"]
    assert experiment.tags["mlflow.experiment.primaryMetric.name"] == "kl"
    assert where["page"][1:] in experiment.tags["mlflow.note.content"]
    record = find_pending(tmp_path)
    assert record is not None
    assert record.run == kept
    client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "ours")
    log_search(replace(run, layout=replace(layout, columns=("kl",))), uri, tmp_path)
    tags = client.get_experiment(experiment.experiment_id).tags
    assert tags["mlflow.note.content"] == "ours"
    assert "latency" not in tags[f"mlflow.sharedViewState.{key}"]


def test_equal_winners_leave_the_older_one_champion() -> None:
    def version(number: str, loss: str, certified: str = "true", feasible: str = "true") -> Any:
        tags = {"nas.quality": loss, "nas.certified": certified, "nas.feasible": feasible}
        return SimpleNamespace(version=number, tags=tags)

    assert find_best_version([version("10", "0.5"), version("9", "0.5")]) == "9"
    assert find_best_version([version("1", "0.1", feasible="false"), SimpleNamespace(version="2", tags={})]) is None


def test_the_data_are_inputs_of_the_run(run: SearchRun, tmp_path: Path) -> None:
    where = log_search(
        replace(run, data={"test": "00ff", "validation": "11ee"}), get_tracking_uri(None, tmp_path), tmp_path
    )
    found = MlflowClient(where["tracking_uri"]).get_run(where["run_id"])
    assert {(each.tags[0].value, each.dataset.digest) for each in found.inputs.dataset_inputs} == {
        ("test", "00ff"), ("validation", "11ee"),
    }  # fmt: skip
    assert found.data.tags["nas.data.test"] == "00ff"


def test_a_better_winner_that_registers_in_between_is_champion_in_the_end(
    run: SearchRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, others = get_tracking_uri(None, tmp_path), []
    point = MlflowClient.set_registered_model_alias

    def too_late(client: MlflowClient, *arguments: Any) -> None:
        if not others:  # between looking and pointing another search comes and goes
            others.append(None)
            others[0] = log_search(replace(run, candidates=[], winner=winner(0.1)), uri, tmp_path / "other")
        point(client, *arguments)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", too_late)
    mine = log_search(replace(run, candidates=[], winner=winner(0.2)), uri, tmp_path)
    champion = MlflowClient(uri).get_model_version_by_alias(winner(0).model, "champion")
    assert champion.run_id == others[0]["run_id"]
    assert not mine["registered_model"]["champion"]
