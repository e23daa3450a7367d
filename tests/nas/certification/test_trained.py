"""Candidates that were trained are certified in their order; noise is waited for, and decides nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from latency_models.measurement import Measurement
from latency_models.workload import Workload
from nas.certification.trained import TrainedCallbacks, TrainedCandidate, certify_first
from nas.quality import Quality
from nas.results.certificate import Certificate, compute_confidence, count_looks, judge, mark_too_busy
from nas.search import Candidate
from search_spaces import Architecture
from search_spaces.errors import MachineTooBusy

WORKLOAD = Workload.parse("forward:batch=1,seq=16")
FIRST, SECOND = (Architecture.from_words(words) for words in ("attn mlp", "mlp attn"))
BUDGET = 10.0


def trained(architecture: Architecture) -> TrainedCandidate:
    candidate = Candidate(architecture, Quality("kl", 0.1, False, "validation", 0.1), 9.0, "x", 0, True)
    return TrainedCandidate(candidate, lambda: architecture)


@dataclass
class Machine:
    """Judges architectures by samples that are given; `waits` of them are noise."""

    file: Path
    ms: dict[Architecture, float]
    noisy: int = 0
    patient: bool = True
    asked: list[tuple[Architecture, int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def certify(self, architecture: Architecture, looks: int) -> Certificate:
        self.asked.append((architecture, looks))
        noisy = len(self.asked) <= self.noisy
        parent = [40.0 if noisy and number % 3 == 0 else 20.0 for number in range(400)]
        samples = (self.ms[architecture],) * 400
        winner, beside = (
            Measurement(samples, WORKLOAD, tuple(parent)),
            Measurement(tuple(parent), WORKLOAD, (20.0,) * 400),
        )
        return self.judge(architecture, (winner, beside))

    def judge(self, architecture: Architecture, measured: tuple[Measurement, Measurement] | None) -> Certificate:
        return judge(
            target="host", on_target=measured is not None, file=self.file, workload=WORKLOAD, percentile=90,
            budget_ms=BUDGET, predicted_ms=9.0, architecture=architecture, environment={}, versions={},
            measured=measured,
        )  # fmt: skip

    def predict(self, architecture: Architecture, reason: str) -> Certificate:
        return mark_too_busy(self.judge(architecture, None), reason)

    def wait(self, reason: str) -> None:
        if not self.patient:
            raise MachineTooBusy(reason)
        self.said.append(f"waiting: {reason}")

    @property
    def callbacks(self) -> TrainedCallbacks:
        return TrainedCallbacks(self.certify, self.predict, self.wait, self.said.append, 90)


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Machine]:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    return lambda ms, **more: Machine(tmp_path / "model.onnx", ms, **more)


def test_the_first_that_is_within_the_budget_is_certified(machine: Callable[..., Machine]) -> None:
    quick = machine({FIRST: 9.0, SECOND: 8.0})
    candidate, certificate = certify_first(quick.callbacks, [trained(FIRST), trained(SECOND)], looks=3)
    assert candidate.architecture == FIRST
    assert certificate.certified
    assert quick.asked == [(FIRST, 3)]


def test_one_above_the_budget_makes_room_for_the_next_best(machine: Callable[..., Machine]) -> None:
    slow = machine({FIRST: 11.0, SECOND: 8.0})
    candidate, certificate = certify_first(slow.callbacks, [trained(FIRST), trained(SECOND)], looks=1)
    assert candidate.architecture == SECOND
    assert certificate.certified
    assert slow.asked == [(FIRST, 1), (SECOND, 2)]  # every look counts
    assert "trying the next best" in slow.said[0]


def test_where_none_is_certified_the_first_stays_and_says_so(machine: Callable[..., Machine]) -> None:
    slow = machine({FIRST: 11.0, SECOND: 12.0})
    candidate, certificate = certify_first(slow.callbacks, [trained(FIRST), trained(SECOND)], looks=0)
    assert candidate.architecture == FIRST
    assert not certificate.certified
    assert "is above the budget" in certificate.reason


def test_noise_is_waited_for_and_the_same_one_is_measured_again(machine: Callable[..., Machine]) -> None:
    noisy = machine({FIRST: 9.0}, noisy=2)
    _, certificate = certify_first(noisy.callbacks, [trained(FIRST)], looks=0)
    assert certificate.certified
    assert [each[0] for each in noisy.asked] == [FIRST] * 3
    assert [said.partition(":")[0] for said in noisy.said] == ["waiting", "waiting"]


def test_a_machine_that_stays_busy_leaves_a_prediction_of_the_best(machine: Callable[..., Machine]) -> None:
    busy = machine({FIRST: 9.0, SECOND: 8.0}, noisy=9, patient=False)
    candidate, certificate = certify_first(busy.callbacks, [trained(FIRST), trained(SECOND)], looks=0)
    assert candidate.architecture == FIRST
    assert certificate.busy
    assert not certificate.certified


@pytest.mark.parametrize("looks", [1, 2, 3, 7, 40])
def test_how_often_was_looked_follows_from_the_confidence(looks: int, machine: Callable[..., Machine]) -> None:
    from dataclasses import replace

    certificate = machine({FIRST: 9.0}).certify(FIRST, 0)
    assert count_looks(replace(certificate, confidence=compute_confidence(looks))) == looks
