"""The certificate: proof that the exported winner was measured inside the budget, or a plain word that it was not."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

from latency_models.measurement import Measurement
from latency_models.workload import Workload
from search_spaces.architecture import Architecture
from search_spaces.errors import MeasurementError, NasError

SCHEMA_VERSION = 2
_ROUNDING = 1e-6  # ms; samples are written with six decimals


class Verdict(StrEnum):
    """What a certificate says."""

    CERTIFIED = "certified"
    REFUSED = "not within the budget"
    PREDICTED = "predicted, not certified"


@dataclass(frozen=True)
class Certificate:
    """One exported file on one target.

    Attributes:
        percentile: the one that had to meet `budget_ms`.
        file_sha256: of the ONNX file that was measured, or that would have been.
        environment: what the measurement depends on: device, runtime, precision, threads, power mode.
        on_target: whether the target itself was measured. A file measured on another machine says how the two files
            compare, not that the budget is met.
        drift: how much slower the parent ran when the target was profiled than beside the winner, at least 1: a
            budget in ms must not be met by a lucky hour.
        winner, parent: raw measurements, interleaved; None where nothing was measured.
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
    on_target: bool
    drift: float
    winner: Measurement | None
    parent: Measurement | None

    @property
    def certified(self) -> bool:
        """Whether the winner was measured on the target inside the budget."""
        return self.verdict is Verdict.CERTIFIED

    @property
    def percentile_ms(self) -> float:
        """The asked percentile of the winner's samples times the drift, ms; infinite where none were taken."""
        return math.inf if self.winner is None else self.winner.percentile(self.percentile) * self.drift

    @property
    def bound_ms(self) -> float | None:
        """What the asked percentile exceeds with at most 1 %, ms, times the drift; None without enough samples."""
        bound = None if self.winner is None else self.winner.upper_bound(self.percentile)
        return None if bound is None else bound * self.drift

    @property
    def parent_change(self) -> float | None:
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
            "bound_ms": self.bound_ms,
            "parent_change": None if self.parent_change is None else round(self.parent_change, 4),
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
        except (NasError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
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
        return self.bound_ms is not None and self.bound_ms <= self.budget_ms + _ROUNDING

    def save(self, path: Path) -> None:
        """Write the JSON form."""
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")


def judge(
    *,
    target: str,
    on_target: bool,
    file: Path,
    workload: Workload,
    percentile: int,
    budget_ms: float,
    predicted_ms: float,
    architecture: Architecture,
    environment: dict[str, str],
    versions: dict[str, str],
    measured: tuple[Measurement, Measurement] | None,
    drift: float = 1.0,
) -> Certificate:
    """The verdict on an exported file: certified only if it was measured on the target inside the budget.

    Inside means the upper bound (99 %) of the asked percentile times the drift, not the percentile itself.

    Args:
        measured: winner and parent.
    """
    winner, parent = measured if measured is not None else (None, None)
    draft = Certificate(
        target, Verdict.PREDICTED, f"{target} was not at hand; {predicted_ms:.2f} ms is a prediction", workload,
        percentile, budget_ms, predicted_ms, architecture, sha256(file),
        environment, versions, on_target, drift, winner, parent,
    )  # fmt: skip
    if not on_target or winner is None:
        return draft
    said, bound = f"measured p{percentile} {winner.percentile(percentile):.2f} ms", draft.bound_ms
    if bound is None:
        few = f"{len(winner.samples_ms)} samples, too few to bound it"
        return replace(draft, verdict=Verdict.REFUSED, reason=f"{said} from {few}; measure longer")
    inside = bound <= budget_ms
    relation, verdict = ("within", Verdict.CERTIFIED) if inside else ("above", Verdict.REFUSED)
    said += f", at most {bound:.2f} ms (99 %{f', drift {drift:.3f}' if drift > 1 else ''}),"
    return replace(draft, verdict=verdict, reason=f"{said} is {relation} the budget of {budget_ms:.2f} ms")


def sha256(file: Path) -> str:
    """The digest of a file, followed by the weights beside it where it is too large to hold them; hexadecimal."""
    digest = hashlib.sha256()
    for part in (file, file.with_name(f"{file.name}.data")):
        if part.exists() or part == file:
            with part.open("rb") as content:
                while block := content.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
