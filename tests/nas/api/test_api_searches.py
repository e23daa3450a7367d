"""Searches over HTTP: what is taken and what is refused, and that one is not another."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from serving_kit import (  # noqa: F401
    ASKED,
    ENDLESS,
    QUICK,
    WRONG,
    Service,
    await_state,
    serve_fixture,
    submit,
    until,
)

from nas.api.artifacts import find_artifact
from nas.api.errors import Refusal
from nas.api.jobs import Job, State, cut, read_last_words
from nas.api.model_roots import ModelRoots
from nas.api.submission import Submission
from search_spaces.errors import UsageError

Serve = Callable[..., Service]


def test_a_search_from_its_submission_to_its_result(tmp_path: Path, serve: Serve) -> None:
    client = serve(tmp_path).client("submit")
    answer = client.post("/v1/searches", json=ASKED | {"trials": 7, "pareto": True})
    assert answer.status_code == 201
    search = answer.json()
    assert search["owner"] == "submit"
    assert search["request"] == ASKED | {
        "units": "attention,cross-attention,mlp,block", "tokens": "off", "percentile": 90, "trials": 7, "seed": 0,
        "method": "nas", "pareto": True, "servable": "any", "compensate": "auto", "heal_train": "projections+norms",
    }  # fmt: skip
    done = await_state(client, search["id"], State.SUCCEEDED)
    assert done["exit_code"] == 0
    assert done["created"] <= done["started"] <= done["ended"]
    result = client.get(f"/v1/searches/{search['id']}/result").json()
    assert result["budget"] == "20ms"
    listed = client.get(f"/v1/searches/{search['id']}/artifacts").json()["artifacts"]
    assert [entry["name"] for entry in listed] == ["result.json", "winner/model.onnx"]
    file = client.get(f"/v1/searches/{search['id']}/artifacts/winner/model.onnx")
    assert file.content == b"graph 20ms"
    assert file.headers["Content-Disposition"] == 'attachment; filename="model.onnx"'
    assert file.headers["Content-Type"] == "application/octet-stream"


def test_the_search_is_given_what_was_asked_and_what_the_operator_set(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    asked = ASKED | {
        "model": "mine", "data": "digits-vit", "workload": "prefill:batch=1,seq=64", "units": "none",
        "tokens": "search", "percentile": 95, "trials": 3, "seed": 5, "time_limit": "10min", "max_parameters": "0.7x",
        "method": "dop", "servable": "decilm", "heal": "5min", "heal_train": "lora",
    }  # fmt: skip
    served = serve(tmp_path / "root", roots=ModelRoots.of((tmp_path / "models",)))
    id = submit(served.client(), **asked)
    kept = json.loads((served.settings.searches / id / "search.json").read_text())
    out = served.settings.searches / id / "result"
    data = ModelRoots().resolve_data("digits-vit")
    assert kept["arguments"] == [
        "search", "--json", f"--out={out}", f"--model={tmp_path}/models/mine", f"--data={data}",
        "--target=jetson-orin", "--budget=20ms", "--workload=prefill:batch=1,seq=64", "--units=none",
        "--tokens=search", "--heal=5min", "--heal-train=lora", "--percentile=95", "--trials=3", "--seed=5",
        "--time-limit=10min", "--max-parameters=0.7x", "--method=dop", "--servable=decilm", "--tracking-uri=http://mlflow.example:5000",
    ]  # fmt: skip


def test_what_the_service_hands_on_is_what_nas_search_takes() -> None:
    from typer.main import get_command

    from nas.cli.app import app

    options = {name for p in get_command(app).commands["search"].params for name in p.opts}  # type: ignore[attr-defined]
    given = Submission(**ASKED, pareto=True, seed=1, trials=2, percentile=50, units="mlp", method="sleb")
    flags = {word.partition("=")[0] for word in given.build_arguments(ModelRoots(), Path("out"))[1:]}
    fields = {f"--{name.replace('_', '-')}" for name in Submission.model_fields}
    assert flags | fields | {"--tracking-uri"} <= options


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"budget": "20"}, "has no unit"),
        ({"budget": "1.5x"}, "above the parent"),
        ({"target": "jetson-orrin"}, "nearest: jetson-orin"),
        ({"workload": "run"}, "phase 'run'"),
        ({"units": "heads"}, "units 'heads'"),
        ({"tokens": "some"}, "tokens 'some'"),
        ({"method": "magic"}, "method 'magic'"),
        ({"method": "dop"}, "add tokens: search"),
        ({"time_limit": "5"}, "time '5'"),
        ({"heal": "5"}, "time '5'"),
        ({"heal": "5min", "heal_train": "head"}, "train 'head' is none of"),
        ({"max_parameters": "many"}, "parameters 'many'"),
        ({"servable": "vllm"}, "none of any, decilm"),
        ({"percentile": 100}, "percentile"),
        ({"percentile": "90"}, "percentile"),
        ({"trials": 0}, "trials"),
        ({"trials": True}, "trials"),
        ({"seed": 1.5}, "seed"),
        ({"pareto": "yes"}, "pareto"),
        ({"budget": None}, "budget"),
        ({"budget": "20ms\u0000"}, "cannot be printed"),
        ({"target": "host\n--resume"}, "cannot be printed"),
        ({"target": "\ud800"}, "target"),
        ({"model": "a" * 2000}, "model"),
        ({"out": "/tmp/elsewhere"}, "out"),
        ({"storage": "postgresql://elsewhere"}, "storage"),
        ({"tracking_uri": "http://169.254.169.254/"}, "tracking_uri"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"resume": "/etc"}, "resume"),
        ({"executor": "ray"}, "executor"),
    ],
)
def test_what_is_not_valid_is_refused_in_a_line(
    tmp_path: Path, serve: Serve, changes: dict[str, Any], says: str
) -> None:
    served = serve(tmp_path)
    answer = served.client().post("/v1/searches", content=json.dumps(ASKED | changes), headers={
        "Content-Type": "application/json"})  # fmt: skip
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "invalid"
    assert says in error["message"]
    assert "Traceback" not in answer.text
    assert list(served.settings.searches.iterdir()) == []


def test_deeply_nested_and_broken_bodies_are_refused(tmp_path: Path, serve: Serve) -> None:
    client = serve(tmp_path).client()
    json_type = {"Content-Type": "application/json"}
    for content in (b"[" * 30_000, b'{"a":' * 10_000, b"\xff", b"{", b"", b"null", b"[]"):
        assert client.post("/v1/searches", content=content, headers=json_type).status_code in (400, 422)
    assert client.post("/v1/searches", content=json.dumps(ASKED), headers={"Content-Type": "text/plain"}).status_code


# Paths.


@pytest.fixture
def positions(tmp_path: Path) -> Path:
    """A model root with a model, a secret beside it, and links."""
    root = tmp_path / "models"
    (root / "mine").mkdir(parents=True)
    (root / "mine" / "config.json").write_text("{}")
    (root / "data.jsonl").write_text("{}")
    (tmp_path / "secret").mkdir()
    (tmp_path / "models-too").mkdir()
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "inside").symlink_to(root / "mine")
    (root / "loop").symlink_to(root / "loop")
    return root


def test_models_and_data_inside_a_model_root_are_taken(positions: Path) -> None:
    roots = ModelRoots.of((positions,))
    for text in ("mine", str(positions / "mine"), "inside", "./mine", "mine/../mine"):
        assert roots.resolve_model(text) == str(positions / "mine")
    assert roots.resolve_data("data.jsonl") == str(positions / "data.jsonl")
    assert roots.resolve_model("python-lm") == "python-lm"
    assert Path(roots.resolve_data("python-lm")).is_dir()


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd", "/", "", ".", "..", "../secret", "mine/../../secret", "out", "out/x", "loop", "missing", "~",
        "~root", "file:///etc/passwd", "http://169.254.169.254/latest", "\\\\host\\share", "mine\x00", "mine\n",
        "owner/name", "../models-too", "%2e%2e/secret", "a" * 999, "//etc//passwd", "/proc/self/environ",
    ],
)  # fmt: skip
def test_nothing_outside_the_model_roots_is_taken_and_none_tells_what_is_there(positions: Path, text: str) -> None:
    roots = ModelRoots.of((positions,))
    for take in (roots.resolve_model, roots.resolve_data):
        with pytest.raises(UsageError, match="in no model root"):
            take(text)
    there, absent = str(positions.parent / "secret"), str(positions.parent / "nothing")
    message = []
    for path in (there, absent):
        with pytest.raises(UsageError) as refused:
            roots.resolve_data(path)
        message.append(str(refused.value).replace(path, "PATH"))
    assert message[0] == message[1]


def test_the_hub_is_asked_only_where_that_is_allowed() -> None:
    hub = ModelRoots(hub=True)
    assert hub.resolve_model("owner/name-1.5_b") == "owner/name-1.5_b"
    for text in ("owner", "a/b/c", "/a", "a/", "../b", "a/..", "a/-b", "-a/b", "https://x/y", "a b/c", "a/b@main"):
        with pytest.raises(UsageError):
            hub.resolve_model(text)
    with pytest.raises(UsageError, match="not allowed here"):
        ModelRoots().resolve_model("owner/name")
    with pytest.raises(UsageError):
        hub.resolve_data("owner/name")


def test_a_model_elsewhere_is_refused_over_http(tmp_path: Path, serve: Serve) -> None:
    client = serve(tmp_path).client()
    for changes in ({"model": "/etc"}, {"data": "/etc/passwd"}, {"model": "owner/name"}):
        answer = client.post("/v1/searches", json=ASKED | changes)
        assert answer.status_code == 422
        assert "in no model root" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "name",
    [
        "../search.json", "..%2fsearch.json", "%2e%2e/search.json", "..%5csearch.json", "winner/../../search.json",
        "%2fetc%2fpasswd", "/etc/passwd", "//etc/passwd", "link", "folder-link/hosts", "winner", "", "%2e", "a%00b",
        "x" * 5000, "winner/%252e%252e/%252e%252e/search.json", "loop", "request.json",
        "winner/../request.json", ".hidden",
    ],
)  # fmt: skip
def test_no_file_outside_the_folder_and_no_private_one_is_given_away(tmp_path: Path, serve: Serve, name: str) -> None:
    served = serve(tmp_path)
    client = served.client("read")
    id = submit(served.client())
    await_state(client, id, State.SUCCEEDED)
    out = served.settings.searches / id / "result"
    (out / "link").symlink_to("/etc/hosts")
    (out / "folder-link").symlink_to("/etc")
    (out / "loop").symlink_to(out / "loop")
    (out / "request.json").write_text('{"storage": "postgresql://nas:secret@db/nas"}')
    (out / ".hidden").write_text("the program's own")
    answer = client.get(f"/v1/searches/{id}/artifacts/{name}")
    assert answer.status_code == 404
    with pytest.raises(Refusal):
        find_artifact(out, unquote(name))  # a client may have made the path shorter on its way
    listed = [entry["name"] for entry in client.get(f"/v1/searches/{id}/artifacts").json()["artifacts"]]
    assert listed == ["result.json", "winner/model.onnx"]


@pytest.mark.parametrize("id", ["..", "%2e%2e", "..%2f..", "/etc", "none", "%00", "a" * 3000, "*"])
def test_an_id_that_is_none_is_not_known(tmp_path: Path, serve: Serve, id: str) -> None:
    client = serve(tmp_path).client()
    for path in ("", "/result", "/artifacts", "/artifacts/result.json", "/events"):
        assert client.get(f"/v1/searches/{id}{path}").status_code == 404
    for verb in ("cancel", "resume"):
        assert client.post(f"/v1/searches/{id}/{verb}").status_code == 404


# Living on.


def test_searches_are_listed_a_page_at_a_time_the_latest_first(tmp_path: Path, serve: Serve) -> None:
    client = serve(tmp_path).client()
    ids = [submit(client, seed=WRONG if n == 2 else QUICK) for n in range(5)]
    for id in ids:
        await_state(client, id, State.SUCCEEDED, State.FAILED)
    seen, before = [], ""
    while before is not None:
        page = client.get("/v1/searches", params={"limit": 2} | ({"before": before} if before else {})).json()
        assert len(page["searches"]) <= 2
        seen += [search["id"] for search in page["searches"]]
        before = page["next"]
    assert seen == ids[::-1]
    failed = client.get("/v1/searches", params={"state": "failed"}).json()["searches"]
    assert [search["id"] for search in failed] == [ids[2]]
    assert failed[0]["message"] == "nothing like it"
    for wrong in ({"limit": 0}, {"limit": 201}, {"state": "sleeping"}, {"before": "x" * 81}):
        assert client.get("/v1/searches", params=wrong).status_code == 422


def test_a_search_is_cancelled_and_goes_on_later(tmp_path: Path, serve: Serve) -> None:
    served = serve(tmp_path)
    client = served.client()
    id = submit(client, seed=ENDLESS)
    await_state(client, id, State.RUNNING)
    assert client.post(f"/v1/searches/{id}/resume").status_code == 409
    assert client.get(f"/v1/searches/{id}/result").json()["error"]["code"] == "no_result"
    assert client.post(f"/v1/searches/{id}/cancel").status_code == 202
    await_state(client, id, State.CANCELLED)
    assert client.post(f"/v1/searches/{id}/cancel").json()["state"] == State.CANCELLED
    again = client.post(f"/v1/searches/{id}/resume")
    assert again.status_code == 202
    assert again.json()["runs"] == 2
    assert again.json()["id"] == id
    await_state(client, id, State.RUNNING)
    client.post(f"/v1/searches/{id}/cancel")
    await_state(client, id, State.CANCELLED)


def test_a_server_that_is_started_again_knows_its_searches(tmp_path: Path, serve: Serve) -> None:
    first = serve(tmp_path)
    client = first.client()
    done, runs = submit(client), submit(client, seed=ENDLESS)
    await_state(client, done, State.SUCCEEDED)
    await_state(client, runs, State.RUNNING)
    first.jobs.close()
    second = serve(tmp_path)
    client = second.client()
    assert client.get(f"/v1/searches/{done}/result").json()["budget"] == "20ms"
    assert client.get(f"/v1/searches/{runs}").json()["state"] == State.INTERRUPTED
    assert [search["id"] for search in client.get("/v1/searches").json()["searches"]] == [runs, done]
    assert client.post(f"/v1/searches/{runs}/resume").status_code == 202


def test_the_end_of_the_app_ends_its_searches(tmp_path: Path, serve: Serve) -> None:
    served = serve(tmp_path)
    with served.client() as client:
        id = submit(client, seed=ENDLESS)
        await_state(client, id, State.RUNNING)
    assert served.jobs.get(id).state is State.INTERRUPTED


def test_a_search_that_a_cluster_forgot_is_lost_unless_it_is_done(tmp_path: Path, serve: Serve) -> None:
    served = serve(tmp_path)
    client = served.client()
    done, failed = submit(client), submit(client, seed=WRONG)
    await_state(client, done, State.SUCCEEDED)
    await_state(client, failed, State.FAILED)

    class Forgetful:
        def list_all(self) -> tuple[Job, ...]:
            return ()

        def get(self, id: str) -> Job:
            raise KeyError(id)

    served.app.state.searches.jobs = Forgetful()
    states = {search["id"]: search["state"] for search in client.get("/v1/searches").json()["searches"]}
    assert states == {done: "succeeded", failed: "lost"}
    assert client.get(f"/v1/searches/{failed}").json()["state"] == "lost"


def test_many_searches_at_once_never_mix(tmp_path: Path, serve: Serve) -> None:
    served = serve(tmp_path, running=4, queued=100)
    clients = {who: served.client(who) for who in ("submit", "all")}
    found: dict[str, tuple[str, str]] = {}

    def one(number: int) -> None:
        who = ("submit", "all")[number % 2]
        budget = f"{number + 1}ms"
        found[submit(clients[who], budget=budget)] = (who, budget)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 24
    client = clients["all"]
    for id, (who, budget) in found.items():
        search = await_state(client, id, State.SUCCEEDED)
        assert (search["owner"], search["request"]["budget"]) == (who, budget)
        result = client.get(f"/v1/searches/{id}/result").json()
        assert result["budget"] == budget
        assert f"/{id}/" in result["out"]
        assert client.get(f"/v1/searches/{id}/artifacts/winner/model.onnx").content == f"graph {budget}".encode()
        log = client.get(f"/v1/searches/{id}/events").text
        assert f"searching for {budget} " in log
        assert log.count("searching for") == 1


def test_a_full_queue_is_said(tmp_path: Path, serve: Serve) -> None:
    client = serve(tmp_path, running=1, queued=1).client()
    submit(client, seed=ENDLESS)
    submit(client, seed=ENDLESS)
    answer = client.post("/v1/searches", json=ASKED)
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "queue_full"
    assert answer.headers["Retry-After"] == "60"
    assert len(client.get("/v1/searches").json()["searches"]) == 2


def test_readiness_looks_at_jobs_and_disk(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    served = serve(tmp_path)
    client = served.client("read")
    assert client.get("/readyz").json() == {"status": "ok"}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage())
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "MiB free" in answer.json()["error"]["message"]
    monkeypatch.undo()
    served.jobs.close()
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


class _Usage:
    free = 1 << 20


def test_a_log_that_is_not_there_yet_is_empty(tmp_path: Path, serve: Serve) -> None:
    served = serve(tmp_path, running=1)
    client = served.client()
    submit(client, seed=ENDLESS)
    waiting = submit(client)
    assert served.jobs.read_log(waiting, 0).lines == ()
    client.post(f"/v1/searches/{waiting}/cancel")
    until(lambda: served.jobs.get(waiting).state is State.CANCELLED)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00" * 9, "[" * 100_000])
def test_a_damaged_result_is_said_once_and_can_be_written_again(tmp_path: Path, serve: Serve, text: str) -> None:
    served = serve(tmp_path / "root")
    client = served.client()
    id = submit(client)
    await_state(client, id, State.SUCCEEDED)
    path = served.settings.searches / id / "result" / "result.json"
    whole = path.read_text()
    path.write_text(text)
    answer = client.get(f"/v1/searches/{id}/result")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "damaged_result")
    assert client.post(f"/v1/searches/{id}/resume").status_code == 202
    await_state(client, id, State.SUCCEEDED)
    assert path.read_text() == whole
    assert client.post(f"/v1/searches/{id}/resume").status_code == 409  # there is nothing left to do


def test_what_was_asked_is_for_this_account_only(tmp_path: Path, serve: Serve) -> None:
    served = serve(tmp_path / "root")
    client = served.client()
    id = submit(client)
    await_state(client, id, State.SUCCEEDED)
    files = [served.settings.searches / id / "search.json", *(served.settings.jobs / id).glob("*.[jt]*")]
    assert {path.name for path in files} == {"search.json", "job.json", "log.txt"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


@pytest.mark.parametrize("name", ["search.json", "job.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}'])
def test_a_damaged_file_of_one_search_keeps_no_server_from_starting(
    tmp_path: Path, serve: Serve, name: str, text: str
) -> None:
    served = serve(tmp_path / "root")
    client = served.client()
    broken, whole = submit(client), submit(client)
    for id in (broken, whole):
        await_state(client, id, State.SUCCEEDED)
    folder = served.settings.searches if name == "search.json" else served.settings.jobs
    (folder / broken / name).write_text(text)
    (folder / whole / name).chmod(0o644)
    again = serve(tmp_path / "root").client()
    listed = {search["id"]: search["state"] for search in again.get("/v1/searches").json()["searches"]}
    assert listed.pop(whole) == "succeeded"
    assert listed == ({} if name == "search.json" else {broken: "succeeded"})  # its result is there
    assert (folder / whole / name).stat().st_mode & 0o777 == 0o600


def test_a_password_in_a_mistyped_url_is_in_no_answer(tmp_path: Path, serve: Serve) -> None:
    message = "storage 'postgresql:/me:secret@db/x' is of no known kind"
    log = json.dumps({"schema_version": 1, "error": {"message": message}})
    assert read_last_words(log) == read_last_words(message) == "storage 'postgresql:/***@db/x' is of no known kind"
    assert [line for line, _ in cut(f"{message}\n".encode(), 0, ended=True).lines] == [read_last_words(message)]
    answer = serve(tmp_path / "root").client().post("/v1/searches", json=ASKED | {"data": "http:/me:secret@h/x"})
    assert answer.status_code == 422
    assert "secret" not in answer.text
