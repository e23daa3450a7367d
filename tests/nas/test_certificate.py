"""A certificate says certified only when the samples it holds say so, on the machine that is the target."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from latency_models.measurement import Measurement
from latency_models.workload import Workload
from nas.certificate import Certificate, Verdict, judge
from search_spaces import Architecture
from search_spaces.errors import MeasurementError

HERE = Workload.parse("forward:batch=2,seq=16")
ARCHITECTURE = Architecture.from_words("attn+mlp mlp removed")
PARENT_MS = tuple(10.0 + 0.01 * i for i in range(100))
WINNER_MS = tuple(6.0 + 0.01 * i for i in range(100))  # p50 6.49, p90 6.89


def certificate(folder: Path, budget_ms: float = 7.0, percentile: int = 90, measured=True, on_target=True, drift=1.0):
    file = folder / "model.onnx"
    file.write_bytes(b"weights")
    winner, parent = Measurement(WINNER_MS, HERE, PARENT_MS), Measurement(PARENT_MS, HERE, PARENT_MS)
    return judge(
        target="host" if on_target else "jetson-agx-orin-64gb@maxn/fp16", on_target=on_target, file=file,
        workload=HERE, environment={"device": "one", "runtime": "onnxruntime 1"}, drift=drift,
        percentile=percentile, budget_ms=budget_ms, predicted_ms=6.2, architecture=ARCHITECTURE,
        versions={"onnxruntime": "1.0"}, measured=(winner, parent) if measured else None,
    )  # fmt: skip


def test_the_bound_of_the_asked_percentile_decides(tmp_path: Path) -> None:
    # Of 100 samples the 97th bounds p90 and the 63rd p50 at 99 % (binomial tables): 6.96 and 6.62 ms.
    assert certificate(tmp_path, budget_ms=6.96).certified
    refused = certificate(tmp_path, budget_ms=6.95)
    assert refused.verdict is Verdict.REFUSED
    assert "measured p90 6.89 ms, at most 6.96 ms (99 %), is above the budget of 6.95 ms" in refused.reason
    assert certificate(tmp_path, budget_ms=6.62, percentile=50).certified
    assert not certificate(tmp_path, budget_ms=6.61, percentile=50).certified


def test_drift_counts_against_the_winner(tmp_path: Path) -> None:
    assert certificate(tmp_path, budget_ms=7.0).certified
    refused = certificate(tmp_path, budget_ms=7.0, drift=1.02)
    assert not refused.certified
    assert "drift 1.020" in refused.reason


def test_too_few_samples_certify_nothing(tmp_path: Path) -> None:
    refused = certificate(tmp_path, budget_ms=1000.0, percentile=99)
    assert refused.verdict is Verdict.REFUSED
    assert "100 samples, too few" in refused.reason


@pytest.mark.parametrize(("measured", "on_target"), [(True, False), (False, True), (False, False)])
def test_what_was_not_measured_on_its_target_is_a_prediction(measured: bool, on_target: bool, tmp_path: Path) -> None:
    given = certificate(tmp_path, budget_ms=1000.0, measured=measured, on_target=on_target)
    assert not given.certified
    assert given.to_json()["verdict"] == "predicted, not certified"
    assert "6.20 ms is a prediction" in given.reason


def test_the_file_holds_the_evidence_and_reads_back_equal(tmp_path: Path) -> None:
    given = certificate(tmp_path)
    given.save(tmp_path / "certificate.json")
    document = json.loads((tmp_path / "certificate.json").read_text())
    assert document["file_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert document["measured"]["winner"]["p50_ms"] == sorted(WINNER_MS)[49]
    assert document["measured"]["winner"]["p90_ms"] == sorted(WINNER_MS)[89]
    assert len(document["measured"]["parent"]["samples"]) == 100
    assert document["ratio_to_parent"] == pytest.approx(6.495 / 10.495, abs=1e-4)
    assert "onnxruntime" in document["environment"]["runtime"]
    read = Certificate.load(tmp_path / "certificate.json")
    assert replace(read, winner=None, parent=None) == replace(given, winner=None, parent=None)
    assert read.to_json() == document


def test_a_prediction_reads_back_equal(tmp_path: Path) -> None:
    given = certificate(tmp_path, measured=False, on_target=False)
    given.save(tmp_path / "certificate.json")
    assert Certificate.load(tmp_path / "certificate.json") == given


def test_the_parent_s_own_change_is_reported(tmp_path: Path) -> None:
    given = certificate(tmp_path)
    steady = Measurement((5.0,) * 100, HERE)
    throttled = Measurement((5.0,) * 50 + (6.0,) * 50, HERE)
    assert replace(given, parent=steady).parent_change == 0.0
    assert replace(given, parent=throttled).parent_change == pytest.approx(0.2)
    assert replace(given, parent=None).parent_change is None


def _edited(folder: Path, **changes: object) -> Path:
    path = folder / "certificate.json"
    certificate(folder).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_a_certificate_that_its_samples_contradict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="its samples do not"):
        Certificate.load(_edited(tmp_path, budget_ms=5.0))
    with pytest.raises(MeasurementError, match="its samples do not"):
        Certificate.load(_edited(tmp_path, measured={"winner": None, "parent": None}))


@pytest.mark.parametrize(
    "changes", [{"schema_version": 99}, {"verdict": "fast"}, {"workload": "walk"}, {"measured": 3}, {"architecture": 1}]
)
def test_a_damaged_certificate_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"certificate\.json is no certificate"):
        Certificate.load(_edited(tmp_path, **changes))


def test_a_missing_or_truncated_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="does not exist"):
        Certificate.load(tmp_path / "none.json")
    path = _edited(tmp_path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(MeasurementError, match="is no certificate"):
        Certificate.load(path)
