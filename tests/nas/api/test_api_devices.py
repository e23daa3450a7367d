"""What devices hand in is checked as if somebody had forged it."""

import dataclasses
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving_kit import Service, await_state, serve_fixture, submit  # noqa: F401

from latency_models.measurement import Measurement
from latency_models.measurement_design import design_measurements
from latency_models.profile import Profile, Record
from latency_models.shape import ModelShape
from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.api.errors import Refusal
from nas.api.jobs import State
from nas.api.profile_import import ProfileImports
from nas.profiling.profile_store import get_device_profile_path, import_profile
from nas.results.certificate import Certificate, judge
from nas.storage.cache_folder import get_cache_folder
from search_spaces import Architecture, Kind, Unit
from search_spaces.architecture import drop_from_parent
from search_spaces.errors import MeasurementError, NasError

Serve = Callable[..., Service]
ORIN, HERE, MODEL = find_target("jetson-orin"), Workload.parse("forward:batch=2,seq=16"), "0123456789abcdef"
SHAPE = ModelShape(4, 32, 2, 2, 16, 64, True, 100, True, True, 0, (None,) * 4)
KEY = {"device": "board", "runtime": "tensorrt 10", "precision": "fp16", "threads": "1", "power_mode": "maxn"}


def profile() -> dict[str, Any]:
    """The document of a profile: 1 ms, 0.4 for an attention and 0.6 for an MLP, with noise of 1 %."""
    rng = random.Random(0)
    records = []
    for architecture in [Architecture.parent(4), *design_measurements(4, 0)]:
        parts = [sum(architecture.keeps(i, kind) for i in range(4)) for kind in (Kind.ATTENTION, Kind.MLP)]
        ms = 1.0 + 0.4 * parts[0] + 0.6 * parts[1]
        samples = tuple(ms * rng.uniform(0.99, 1.01) for _ in range(10))
        sentinel = tuple(5.0 * rng.uniform(0.99, 1.01) for _ in range(10))
        records.append(Record(architecture, Measurement(samples, HERE, sentinel)))
    unique = {record.architecture: record for record in records}
    made = Profile(KEY, MODEL, SHAPE, HERE, tuple(unique.values()), ORIN.name)
    path = get_cache_folder() / "made.json"
    made.save(path)
    return json.loads(path.read_text())


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that knows the model."""
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / MODEL).mkdir(parents=True)
    return get_device_profile_path(tmp_path / "cache" / MODEL, ORIN, HERE)


def test_a_profile_is_kept_where_searches_look_for_it(tmp_path: Path, serve: Serve, known: Path) -> None:
    client, document = serve(tmp_path / "root").client("device"), profile()
    answer = client.post("/v1/profiles", json=document)
    assert answer.status_code == 201, answer.text
    receipt = answer.json()
    assert (receipt["target"], receipt["model"], receipt["workload"]) == (ORIN.name, MODEL, str(HERE))
    assert receipt["parent_p50_ms"] == pytest.approx(5.0, rel=0.02)
    assert receipt["records"] == len(document["records"])
    assert json.loads(known.read_text()) == document


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target": "jetson-orrin"}, "nearest: jetson-orin"),
        ({"target": "host"}, "of the machine it was measured on"),
        ({"model": "fedcba9876543210"}, "no kit was made here"),
        ({"model": "../../../etc"}, "no kit was made here"),
        ({"model": "/etc"}, "no kit was made here"),
        ({"key": {"device": "board"}}, "does not say"),
        ({"key": {**KEY, "precision": "fp32"}}, "was measured in fp32"),
        ({"records": []}, "records"),
        ({"records": None}, "is no profile"),
        ({"shape": {}}, "is no profile"),
        ({"schema_version": 99}, "schema_version is 99"),
        ({"workload": ["forward"]}, "profile.json"),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused(
    tmp_path: Path, known: Path, changes: dict[str, Any], says: str
) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile() | changes))
    with pytest.raises(NasError, match=re.escape(says)):
        import_profile(path)
    assert not known.exists()


def test_the_server_says_what_the_command_line_says(tmp_path: Path, serve: Serve, known: Path) -> None:
    answer = serve(tmp_path / "root").client("device").post("/v1/profiles", json=profile() | {"model": "/etc"})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith("profile.json is of the model '/etc', of which no kit was made")
    assert "/tmp" not in answer.text
    assert not known.exists()


@pytest.mark.parametrize(
    ("records", "samples", "says"),
    [(501, 1, "501 records, more than 500"), (4, 250_001, "1000004 samples, more than 1000000")],
)
def test_a_profile_that_takes_long_to_fit_is_refused_first(
    tmp_path: Path, known: Path, monkeypatch: pytest.MonkeyPatch, records: int, samples: int, says: str
) -> None:
    units = [Unit(layer, kind) for layer in range(5) for kind in (Kind.ATTENTION, Kind.MLP)]
    subsets = (frozenset(unit for bit, unit in enumerate(units) if number >> bit & 1) for number in range(records))
    measured = Measurement((1.0,) * samples, HERE)
    shape = dataclasses.replace(SHAPE, depth=5, window=(None,) * 5)
    made = Profile(KEY, MODEL, shape, HERE, tuple(Record(drop_from_parent(5, s), measured) for s in subsets), ORIN.name)
    monkeypatch.setattr(Profile, "load", lambda path: made)
    with pytest.raises(MeasurementError, match=says):
        import_profile(tmp_path / "profile.json")


def test_a_profile_that_is_fitted_for_too_long_is_given_up(known: Path) -> None:
    imports, document = ProfileImports(seconds=0.01, at_once=1), json.dumps(profile()).encode()
    with pytest.raises(Refusal, match=r"not fitted within 0\.01 s"):
        imports.run(document)
    assert imports._turns.acquire(blocking=False)  # the next one is not kept waiting
    with pytest.raises(Refusal, match="other profiles are being fitted"):
        imports.run(document)
    assert not known.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b"1", b'"x"', b"\xff\xfe", b"[" * 200_000, b'{"a":' * 100_000, b"9" * 5000,
        b'{"schema_version": 2, "records": [NaN]}', b"1e999",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/profiles", "/v1/searches/{id}/certificates"])
def test_what_is_no_document_is_refused(tmp_path: Path, serve: Serve, known: Path, path: str, body: bytes) -> None:
    served = serve(tmp_path / "root")
    id = submit(served.client("submit"))
    answer = served.client("device").post(path.replace("{id}", id), content=body)
    assert answer.status_code == 422
    assert len(answer.text) < 2500


@pytest.mark.parametrize("value", [10**400, 1e308, "NaN", -1.0, [], None], ids=lambda value: str(value)[:5])
def test_samples_that_are_no_times_are_refused(tmp_path: Path, known: Path, value: object) -> None:
    document, path = profile(), tmp_path / "profile.json"
    document["records"][1]["measurement"]["samples"][0] = value
    path.write_text(json.dumps(document).replace('"NaN"', "NaN"))
    if value == 1e308:  # absurd, and a number all the same
        import_profile(path)
        return
    with pytest.raises(MeasurementError):
        import_profile(path)


# Certificates.

ARCHITECTURE = Architecture.from_words("attn+mlp mlp removed")
PARENT_MS, WINNER_MS = (tuple(start + 0.01 * i for i in range(100)) for start in (10.0, 6.0))


@pytest.fixture
def finished(tmp_path: Path, serve: Serve) -> tuple[Service, str]:
    """A search whose result folder is as `nas search` leaves it, as far as certificates go."""
    served = serve(tmp_path / "root")
    client = served.client("submit")
    id = submit(client)
    await_state(client, id, State.SUCCEEDED)
    out = served.settings.searches / id / "result"
    write(out, "7ms", 7.0)
    return served, id


def write(out: Path, budget: str, budget_ms: float) -> None:
    (out / "winner" / "model.onnx").write_bytes(b"the winner")
    (out / "request.json").write_text(json.dumps({"budget": budget}))
    result = {
        "target": {"name": ORIN.name}, "workload": str(HERE), "percentile": 90, "budget_ms": budget_ms,
        "winner": {"architecture": ARCHITECTURE.to_json()},
    }  # fmt: skip
    (out / "result.json").write_text(json.dumps(result))


def certificate(folder: Path, **changes: Any) -> dict[str, Any]:
    """The document of a certificate of that winner, with some of its values changed before it is judged."""
    file = folder / "device.onnx"
    file.write_bytes(changes.pop("file", b"the winner"))
    winner, parent = Measurement(WINNER_MS, HERE, PARENT_MS), Measurement(PARENT_MS, HERE, PARENT_MS)
    given = {
        "target": ORIN.name, "on_target": True, "workload": HERE, "percentile": 90, "budget_ms": 7.0,
        "predicted_ms": 6.2, "architecture": ARCHITECTURE, "environment": {}, "versions": {}, "drift": 1.0,
        "measured": (winner, parent),
    }  # fmt: skip
    judge(file=file, **given | changes).save(folder / "certificate.json")  # type: ignore[arg-type]
    return json.loads((folder / "certificate.json").read_text())


def send(finished: tuple[Service, str], document: dict[str, Any]) -> Any:
    served, id = finished
    return served.client("device").post(f"/v1/searches/{id}/certificates", json=document)


def test_a_certificate_of_the_winner_is_kept_beside_the_result(finished: tuple[Service, str], tmp_path: Path) -> None:
    document = certificate(tmp_path)
    answer = send(finished, document)
    assert answer.status_code == 201, answer.text
    receipt = answer.json()
    assert receipt["certified"] is True
    assert receipt["verdict"] == "certified"
    served, id = finished
    kept = served.client("read").get(f"/v1/searches/{id}/artifacts/{receipt['artifact']}")
    assert kept.json() == document
    assert "-device.json" in receipt["artifact"]
    path = served.settings.searches / id / "result" / receipt["artifact"]
    assert Certificate.load(path).certified
    assert send(finished, document).json()["artifact"] != receipt["artifact"]  # none replaces another


def test_a_refusal_is_kept_too(finished: tuple[Service, str], tmp_path: Path) -> None:
    slow = Measurement(PARENT_MS, HERE, PARENT_MS)
    answer = send(finished, certificate(tmp_path, measured=(slow, slow)))
    assert answer.status_code == 201
    assert answer.json()["certified"] is False


def test_a_fraction_is_of_the_parent_that_was_measured_beside_it(finished: tuple[Service, str], tmp_path: Path) -> None:
    served, id = finished
    write(served.settings.searches / id / "result", "0.7x", 6.9)
    p90 = Measurement(PARENT_MS, HERE, PARENT_MS).compute_percentile(90)
    assert send(finished, certificate(tmp_path, budget_ms=0.7 * p90)).status_code == 201
    refused = send(finished, certificate(tmp_path, budget_ms=0.8 * p90))
    assert refused.status_code == 422
    assert "budget" in refused.json()["error"]["message"]
    predicted = send(finished, certificate(tmp_path, budget_ms=6.9, on_target=False))
    assert predicted.status_code == 201, predicted.text
    assert predicted.json()["certified"] is False


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"file": b"another file"}, "file (sha256)"),
        ({"target": "l4/fp16"}, "target"),
        ({"percentile": 50}, "percentile"),
        ({"architecture": Architecture.from_words("attn+mlp attn+mlp removed")}, "architecture"),
        ({"budget_ms": 1e9}, "budget"),
    ],
)
def test_a_certificate_of_something_else_is_refused(
    finished: tuple[Service, str], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    answer = send(finished, certificate(tmp_path, **changes))
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "not_of_the_winner"
    assert says in answer.json()["error"]["message"]
    served, id = finished
    assert not (served.settings.searches / id / "result" / "certificates").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "certified", "budget_ms": 6.0},
        {"verdict": "certified", "measured": {"winner": None, "parent": None}},
        {"verdict": "certified", "on_target": False},
        {"drift": 0.1},
        {"drift": float("nan")},
        {"drift": "1"},
        {"reason": ["x"]},
        {"reason": "x" * 2000},
        {"file_sha256": []},
        {"budget_ms": "7"},
        {"target": None},
        {"architecture": {"blocks": -1}},
        {"schema_version": 1},
    ],
)
def test_a_forged_certificate_is_refused(
    finished: tuple[Service, str], tmp_path: Path, changes: dict[str, Any]
) -> None:
    served, id = finished
    text = json.dumps(certificate(tmp_path) | changes)
    answer = served.client("device").post(f"/v1/searches/{id}/certificates", content=text)
    assert answer.status_code == 422
    assert not (served.settings.searches / id / "result" / "certificates").exists()


def test_without_a_result_there_is_no_winner(tmp_path: Path, serve: Serve) -> None:
    served = serve(tmp_path / "root")
    document = certificate(tmp_path)
    assert served.client("device").post("/v1/searches/none/certificates", json=document).status_code == 404
    id = submit(served.client("submit"), seed=2)
    assert served.client("device").post(f"/v1/searches/{id}/certificates", json=document).status_code == 404
