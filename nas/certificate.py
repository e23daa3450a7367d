"""The certificate: proof that the exported winner was measured inside the budget, or a plain word that it was not."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from latency_models.measurement import Measurement
from latency_models.runtime_ort import default_threads, environment, measure_interleaved
from latency_models.workload import Workload
from search_spaces.architecture import Architecture
from search_spaces.errors import MeasurementError, NasError

SCHEMA_VERSION = 1
LEAST_ROUNDS = 100  # early stopping of MLPerf's 90th percentile asks for 64
_ROUNDING = 1e-6  # ms; samples are written with six decimals


class Verdict(StrEnum):
    """What a certificate says."""

    CERTIFIED = "certified"
    REFUSED = "measured above the budget"
    PREDICTED = "predicted, not certified"


@dataclass(frozen=True)
class Certificate:
    """One exported file on one target.

    Attributes:
        percentile: the one that had to meet `budget_ms`.
        file_sha256: of the ONNX file that was measured, or that would have been.
        winner, parent: raw measurements, interleaved; None where nothing was measured.
        on_host: whether the target is the machine that measured. A file measured on another machine than the
            target says how the two files compare, not that the budget is met.
    """

    target: str
    verdict: Verdict
    reason: str
    workload: Workload
    percentile: int
    budget_ms: float
    predicted_ms: float
    architecture: Architecture
    file_sha256: str
    environment: dict[str, str]
    versions: dict[str, str]
    on_host: bool
    winner: Measurement | None
    parent: Measurement | None

    @property
    def certified(self) -> bool:
        """Whether the winner was measured on the target inside the budget."""
        return self.verdict is Verdict.CERTIFIED

    @property
    def drift(self) -> float | None:
        """How much slower the parent ran in the second half of the measurement than in the first; None if unmeasured.

        The machine's own change, 0.02 for 2 %: what is not explained by the files.
        """
        if self.parent is None or len(self.parent.samples_ms) < 2:
            return None
        samples = self.parent.samples_ms
        middle = len(samples) // 2
        return median(samples[middle:]) / median(samples[:middle]) - 1

    def to_json(self) -> dict[str, Any]:
        """The JSON form, raw samples included."""
        document = {key: value for key, value in asdict(self).items() if key not in ("winner", "parent")}
        document |= {
            "schema_version": SCHEMA_VERSION,
            "verdict": str(self.verdict),
            "workload": str(self.workload),
            "architecture": self.architecture.to_json(),
            "measured": {
                name: None if m is None else {"p50_ms": m.p50, "p90_ms": m.p90, **m.to_json()}
                for name, m in (("winner", self.winner), ("parent", self.parent))
            },
            "ratio_to_parent": None if self.winner is None else round(self.winner.ratio(), 4),
            "drift_of_parent": None if self.drift is None else round(self.drift, 4),
        }
        return document

    @classmethod
    def load(cls, path: Path) -> "Certificate":
        """Read what `save` writes.

        Raises:
            MeasurementError: when the file is missing, damaged, of another version, or says something else than
                its samples.
        """
        try:
            return cls._from_json(json.loads(path.read_text()))
        except FileNotFoundError:
            raise MeasurementError(f"{path} does not exist; give a certificate.json that nas search wrote") from None
        except (NasError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise MeasurementError(f"{path} is no certificate ({error}); measure again") from None

    @classmethod
    def _from_json(cls, document: dict[str, Any]) -> "Certificate":
        if document["schema_version"] != SCHEMA_VERSION:
            raise MeasurementError(f"schema_version is {document['schema_version']!r}, not {SCHEMA_VERSION}")
        measured = {
            name: None if entry is None else Measurement.from_json(entry)
            for name, entry in document["measured"].items()
        }
        plain = {field.name: document[field.name] for field in fields(cls) if field.name in document}
        typed = {
            "verdict": Verdict(document["verdict"]),
            "workload": Workload.parse(document["workload"]),
            "architecture": Architecture.from_json(document["architecture"]),
        }
        certificate = cls(**plain | typed | measured)
        if certificate.certified and not certificate._inside():
            raise MeasurementError(f"it says {certificate.verdict} and its samples do not; do not trust it")
        return certificate

    def _inside(self) -> bool:
        return self.winner is not None and self.winner.percentile(self.percentile) <= self.budget_ms + _ROUNDING

    def save(self, path: Path) -> None:
        """Write the JSON form."""
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")


def measure_pair(
    parent: Path,
    winner: Path,
    inputs: Mapping[str, np.ndarray],
    workload: Workload,
    seconds: float,
    on_round: Callable[[float], None] = lambda share: None,
) -> tuple[Measurement, Measurement]:
    """(winner, parent) measured interleaved in ONNX Runtime on this machine, at least 100 rounds."""
    measured = measure_interleaved(
        {"parent": parent, "winner": winner}, inputs, workload,
        sentinel="parent", seconds=seconds, least_rounds=LEAST_ROUNDS, on_round=on_round,
    )  # fmt: skip
    return measured["winner"], measured["parent"]


def judge(
    *,
    target: str,
    on_host: bool,
    file: Path,
    workload: Workload,
    percentile: int,
    budget_ms: float,
    predicted_ms: float,
    architecture: Architecture,
    versions: dict[str, str],
    measured: tuple[Measurement, Measurement] | None,
) -> Certificate:
    """The verdict on an exported file: certified only if it was measured on the target inside the budget."""
    winner, parent = measured if measured is not None else (None, None)
    if not on_host or winner is None:
        verdict = Verdict.PREDICTED
        reason = f"{target} was not at hand; {predicted_ms:.2f} ms is a prediction"
    else:
        ms = winner.percentile(percentile)
        verdict = Verdict.CERTIFIED if ms <= budget_ms else Verdict.REFUSED
        relation = "within" if ms <= budget_ms else "above"
        reason = f"measured p{percentile} {ms:.2f} ms is {relation} the budget of {budget_ms:.2f} ms"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Certificate(
        target, verdict, reason, workload, percentile, budget_ms, predicted_ms, architecture, digest,
        environment(default_threads()), versions, on_host, winner, parent,
    )  # fmt: skip
