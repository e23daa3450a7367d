"""A certificate says certified only when the samples it holds say so, on the machine that is the target."""

import hashlib
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binom

from latency_models.measurement import Measurement
from latency_models.workload import Workload
from nas.results.certificate import Certificate, Verdict, compute_confidence, judge, mark_too_busy
from search_spaces import Architecture
from search_spaces.errors import MeasurementError, UsageError

HERE = Workload.parse("forward:batch=2,seq=16")
ARCHITECTURE = Architecture.from_words("attn+mlp mlp removed")
PARENT_MS = tuple(10.0 + 0.01 * i for i in range(100))
WINNER_MS = tuple(6.0 + 0.01 * i for i in range(100))  # p50 6.49, p90 6.89


def certificate(
    folder: Path, budget_ms: float = 7.0, percentile: int = 90, measured=True, on_target=True, drift=1.0, **more: object
) -> Certificate:
    file = folder / "model.onnx"
    file.write_bytes(b"weights")
    winner, parent = Measurement(WINNER_MS, HERE, PARENT_MS), Measurement(PARENT_MS, HERE, PARENT_MS)
    return judge(
        target="host" if on_target else "jetson-agx-orin-64gb@maxn/fp16", on_target=on_target, file=file,
        workload=HERE, environment={"device": "one", "runtime": "onnxruntime 1"}, drift=drift,
        percentile=percentile, budget_ms=budget_ms, predicted_ms=6.2, architecture=ARCHITECTURE,
        versions={"onnxruntime": "1.0"}, measured=(winner, parent) if measured else None, **more,
    )  # fmt: skip


def test_the_bound_of_the_asked_percentile_decides(tmp_path: Path) -> None:
    # Of 100 samples the 82nd and 97th bound p90, the 38th and 63rd p50, at 99 % each (binomial tables).
    assert certificate(tmp_path, budget_ms=6.96).certified
    undecided = certificate(tmp_path, budget_ms=6.95)
    assert undecided.verdict is certificate(tmp_path, budget_ms=6.82).verdict is Verdict.UNDECIDED
    assert "6.89 ms, 6.81 to 6.96 ms (99 % each), cannot be told from the budget of 6.95" in undecided.reason
    refused = certificate(tmp_path, budget_ms=6.80)
    assert refused.verdict is Verdict.REFUSED
    assert "is above the budget of 6.80 ms" in refused.reason
    assert certificate(tmp_path, budget_ms=6.62, percentile=50).certified
    assert not certificate(tmp_path, budget_ms=6.61, percentile=50).certified


def test_drift_counts_against_the_winner(tmp_path: Path) -> None:
    assert certificate(tmp_path, budget_ms=7.0).certified
    refused = certificate(tmp_path, budget_ms=7.0, drift=1.02, profiled_parent_ms=10.7)
    assert not refused.certified
    assert "the parent 10.70 ms when profiled and 10.49 ms now: drift 1.020" in refused.reason


def halves(folder: Path, count: int, fraction: float, budget_ms: float | None = None) -> Certificate:
    """A parent that is slower in every second round by six times, and a winner that takes half of it in each."""
    file = folder / "model.onnx"
    file.write_bytes(b"weights")
    parent = tuple((10.0 if turn % 2 else 60.0) * (1 + 0.001 * turn) for turn in range(count))
    ratios = [0.5 + 0.0002 * (37 * turn % count - count // 2) for turn in range(count)]
    winner = tuple(ratio * ms for ratio, ms in zip(ratios, parent, strict=True))
    beside = Measurement(parent, HERE, parent)
    return judge(
        target="host", on_target=True, file=file, workload=HERE, percentile=90, predicted_ms=1.0,
        budget_ms=fraction * beside.p90 if budget_ms is None else budget_ms, architecture=ARCHITECTURE,
        environment={"device": "one"}, versions={}, measured=(Measurement(winner, HERE, parent), beside),
        fraction=fraction,
    )  # fmt: skip


def test_a_fraction_is_judged_by_the_ratio_in_the_same_rounds(tmp_path: Path) -> None:
    """Two hundred ratios from 0.480 to 0.520, equally far apart; every second round is six times slower."""
    below = int(binom.ppf(0.01, 200, 0.5))  # so many are below the median with 99 %
    low, high = 0.48 + 0.0002 * (below - 1), 0.48 + 0.0002 * (200 - below)
    given = halves(tmp_path, 200, 0.51)
    assert given.certified
    message = f"measured 0.500 x the parent in the same rounds (median), {low:.3f} to {high:.3f} (99 % each)"
    assert message in given.reason
    assert given.judged_ms == pytest.approx(0.5 * given.parent.p90, rel=1e-3)
    assert given.floor_ms == pytest.approx(low * given.parent.p90)
    assert given.bound_ms == pytest.approx(high * given.parent.p90)
    assert halves(tmp_path, 200, 0.5).verdict is Verdict.UNDECIDED
    assert halves(tmp_path, 200, 0.49).verdict is Verdict.REFUSED
    assert halves(tmp_path, 6, 0.9).verdict is Verdict.UNDECIDED  # too few samples for a bound
    given.save(tmp_path / "certificate.json")
    assert Certificate.load(tmp_path / "certificate.json").certified


def test_looks_share_one_error_however_many_there_are() -> None:
    errors = [1 - compute_confidence(look) for look in range(1, 2000)]
    assert errors[0] == pytest.approx(0.005)
    assert errors == sorted(errors, reverse=True)
    assert 0.0099 < sum(errors) <= 0.01


def test_judging_until_it_fits_certifies_hardly_any_winner_above_its_budget(tmp_path: Path) -> None:
    """Up to eight looks at a winner whose true ratio is the budget: at 99 % each, several times 1 % would pass."""
    rng, passed, careless = random.Random(0), 0, 0
    for _ in range(1000):
        ratios: list[float] = []
        inside = plain = False
        for look in range(1, 9):
            ratios += [math.exp(0.05 * rng.gauss(0, 1)) for _ in range(60)]
            taken = Measurement(tuple(ratios), HERE, (1.0,) * len(ratios))
            inside = inside or (taken.compute_ratio_bounds(compute_confidence(look))[1] or 9.0) <= 1.0
            plain = plain or (taken.compute_ratio_bounds()[1] or 9.0) <= 1.0
        passed, careless = passed + inside, careless + plain
    assert passed <= 10
    assert careless >= 15


def test_a_machine_that_is_too_busy_leaves_a_prediction(tmp_path: Path) -> None:
    given = mark_too_busy(certificate(tmp_path, measured=False, on_target=False), "the parent ranges")
    assert not given.certified
    assert given.reason == "this machine is too busy to certify: the parent ranges; 6.20 ms is a prediction"
    given.save(tmp_path / "certificate.json")
    assert Certificate.load(tmp_path / "certificate.json").busy == "the parent ranges"


def test_too_few_samples_certify_nothing(tmp_path: Path) -> None:
    refused = certificate(tmp_path, budget_ms=1000.0, percentile=99)
    assert refused.verdict is Verdict.UNDECIDED
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
    with pytest.raises(MeasurementError, match="its samples do not"):
        Certificate.load(_edited(tmp_path, confidence=0.5))
    for changes in ({"fraction": 0.9}, {"fraction": 0.9, "budget_ms": 0.9 * 10.89}, {"budget_ms": 6.0}):
        halves(tmp_path, 200, 0.51).save(tmp_path / "certificate.json")
        document = json.loads((tmp_path / "certificate.json").read_text())
        (tmp_path / "certificate.json").write_text(json.dumps(document | changes))
        with pytest.raises(MeasurementError, match="its samples do not"):
            Certificate.load(tmp_path / "certificate.json")


def test_a_certificate_of_the_earlier_schema_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    certificate(tmp_path).save(path)
    document = json.loads(path.read_text()) | {"schema_version": 2}
    path.write_text(json.dumps({k: v for k, v in document.items() if k not in ("fraction", "confidence", "looks")}))
    assert Certificate.load(path).certified


@pytest.mark.parametrize(
    "changes", [{"schema_version": 99}, {"verdict": "fast"}, {"workload": "walk"}, {"measured": 3}, {"architecture": 1}]
)
def test_a_damaged_certificate_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"certificate\.json is no certificate"):
        Certificate.load(_edited(tmp_path, **changes))


def test_a_missing_or_truncated_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        Certificate.load(tmp_path / "none.json")
    path = _edited(tmp_path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(MeasurementError, match="is no certificate"):
        Certificate.load(path)
