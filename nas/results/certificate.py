"""The certificate: proof that the exported winner was measured inside the budget, or a plain word that it was not.

A budget that is a fraction of the parent is judged by the median ratio of winner and parent in the same rounds, one in
milliseconds by the asked percentile; both by distribution-free bounds. A search may look at its samples as often as it
likes and at as many winners as it likes: look n is judged with an error of ERROR / (n (n + 1)), which adds up to ERROR
over all of them (a union bound; the spending of errors over looks is that of Lan and DeMets, Biometrika 1983).
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

from latency_models.measurement import Measurement, compute_quantile_bounds
from latency_models.workload import Workload
from search_spaces.architecture import Architecture
from search_spaces.errors import MeasurementError, NasError, UsageError

SCHEMA_VERSION = 3
_READABLE = (2, 3)  # 2 knew no fraction and one look
ERROR = 0.01  # that a search certifies what is above its budget
_ROUNDING = 1e-6  # ms; samples are written with six decimals


class Verdict(StrEnum):
    """What a certificate says.

    Example:
        >>> Verdict("predicted, not certified") is Verdict.PREDICTED
        True
    """

    CERTIFIED = "certified"
    REFUSED = "not within the budget"
    UNDECIDED = "not shown to be within the budget"
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
        fraction: of the parent, where the budget is one; `budget_ms` is that of the parent's percentile.
        confidence: of each of the two bounds.
        profiled_parent_ms: the parent's median when the target was profiled, where it was.
        looks: how often the samples were judged, more of them each time.
        busy: what proved that the machine was too busy to measure; empty where nothing did.

    Example:
        >>> certificate = Certificate.load(Path("out/winner/certificate.json"))
        >>> certified, bound_ms = certificate.certified, certificate.bound_ms
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
    fraction: float | None = None
    confidence: float = 1 - ERROR
    looks: int = 1
    profiled_parent_ms: float | None = None
    busy: str = ""

    @property
    def certified(self) -> bool:
        """Whether the winner was measured on the target inside the budget."""
        return self.verdict is Verdict.CERTIFIED

    @property
    def judged_ms(self) -> float:
        """What is compared with the budget, ms; infinite where nothing was measured.

        The asked percentile times the drift; for a fraction the median ratio times the parent's percentile.
        """
        if self.winner is None:
            return math.inf
        if self.fraction is not None:
            return self.winner.compute_ratio() * self._parent_ms
        return self.winner.compute_percentile(self.percentile) * self.drift

    @property
    def bound_ms(self) -> float | None:
        """What the true value of `judged_ms` exceeds with at most 1 - `confidence`; None without enough samples."""
        return self._bounds_ms[1]

    @property
    def floor_ms(self) -> float | None:
        """What the true value of `judged_ms` is below with at most 1 - `confidence`; None without enough samples."""
        return self._bounds_ms[0]

    @property
    def spread(self) -> float:
        """Half of the distance between the bounds over their middle; infinite without enough samples."""
        low, high = self._bounds_ms
        return math.inf if low is None or high is None else (high - low) / (high + low)

    @property
    def _bounds_ms(self) -> tuple[float | None, float | None]:
        if self.winner is None:
            return None, None
        if self.fraction is not None:
            bounds, unit = self.winner.compute_ratio_bounds(self.confidence), self._parent_ms
        else:
            bounds, unit = (
                compute_quantile_bounds(self.winner.samples_ms, self.percentile / 100, self.confidence),
                self.drift,
            )
        low, high = (None if bound is None else bound * unit for bound in bounds)
        return low, high

    @property
    def _parent_ms(self) -> float:
        assert self.parent is not None
        return self.parent.compute_percentile(self.percentile)

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
            "ratio_to_parent": None if self.winner is None else round(self.winner.compute_ratio(), 4),
            "judged_ms": None if self.winner is None else self.judged_ms,
            "bound_ms": self.bound_ms,
            "parent_change": None if self.parent_change is None else round(self.parent_change, 4),
        }
        return document

    @classmethod
    def load(cls, path: Path) -> "Certificate":
        """Read what `save` writes.

        Raises:
            UsageError: when there is no such file.
            MeasurementError: when it is damaged, of another version, or says something else than its samples.
        """
        try:
            return cls._from_json(json.loads(path.read_text()))
        except FileNotFoundError:
            raise UsageError(f"{path} does not exist; give a certificate.json that nas search wrote") from None
        except (NasError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise MeasurementError(f"{path} is no certificate ({error}); measure again") from None

    @classmethod
    def _from_json(cls, document: dict[str, Any]) -> "Certificate":
        if document["schema_version"] not in _READABLE:
            raise MeasurementError(f"schema_version is {document['schema_version']!r}, none of {_READABLE}")
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
        if certificate.certified and not certificate._is_inside():
            raise MeasurementError(f"it says {certificate.verdict} and its samples do not; do not trust it")
        return certificate

    def _is_inside(self) -> bool:
        if self.confidence < 1 - ERROR or (self.fraction is not None and not self._is_that_fraction()):
            return False
        return self.bound_ms is not None and self.bound_ms <= self.budget_ms + _ROUNDING

    def _is_that_fraction(self) -> bool:
        """Whether the budget in ms is the fraction that it says it is."""
        if self.parent is None or self.fraction is None:
            return False
        return abs(self.budget_ms - self.fraction * self._parent_ms) <= _ROUNDING

    def save(self, path: Path) -> None:
        """Write the JSON form."""
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")


def compute_confidence(look: int) -> float:
    """How sure look number `look` of a search has to be, from 1: the errors of all of them add up to ERROR."""
    return 1 - ERROR / (look * (look + 1))


def count_looks(certificate: Certificate) -> int:
    """How many looks a search has had when it gave a certificate: the one that has its confidence."""
    left = ERROR / max(1 - certificate.confidence, 1e-12)  # look * (look + 1)
    return round((math.sqrt(1 + 4 * left) - 1) / 2)


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
    fraction: float | None = None,
    confidence: float = 1 - ERROR,
    looks: int = 1,
    profiled_parent_ms: float | None = None,
) -> Certificate:
    """The verdict on an exported file: certified only if it was measured on the target inside the budget.

    Inside means the upper bound of what is judged, not its estimate; refused, that the lower bound is above. Between
    the two nothing is decided, and only more samples can.

    Args:
        measured: winner and parent.
    """
    winner, parent = measured if measured is not None else (None, None)
    draft = Certificate(
        target, Verdict.PREDICTED, f"{target} was not available; {predicted_ms:.2f} ms is a prediction", workload,
        percentile, budget_ms, predicted_ms, architecture, compute_sha256(file),
        environment, versions, on_target, drift, winner, parent, fraction, confidence, looks,
        profiled_parent_ms,
    )  # fmt: skip
    if not on_target or winner is None or parent is None:
        return draft
    low, high = draft.floor_ms, draft.bound_ms
    if low is None or high is None:
        few = f"{len(winner.samples_ms)} samples, too few to bound it"
        return replace(
            draft, verdict=Verdict.UNDECIDED, reason=f"{_describe_measured(draft)} from {few}; measure longer"
        )
    verdict, relation = Verdict.UNDECIDED, "cannot be told from"
    if high <= budget_ms:
        verdict, relation = Verdict.CERTIFIED, "is within"
    elif low > budget_ms:
        verdict, relation = Verdict.REFUSED, "is above"
    return replace(draft, verdict=verdict, reason=_describe_reason(draft, relation))


def mark_too_busy(draft: Certificate, reason: str) -> Certificate:
    """A prediction that stays one, because the machine has no time to prove it."""
    words = f"this machine is too busy to certify: {reason}; {draft.predicted_ms:.2f} ms is a prediction"
    return replace(draft, verdict=Verdict.PREDICTED, reason=words, busy=reason)


def _describe_measured(draft: Certificate) -> str:
    assert draft.winner is not None
    if draft.fraction is not None:
        return f"measured {draft.winner.compute_ratio():.3f} x the parent in the same rounds (median)"
    return f"measured p{draft.percentile} {draft.winner.compute_percentile(draft.percentile):.2f} ms"


def _describe_reason(draft: Certificate, relation: str) -> str:
    assert draft.bound_ms is not None
    assert draft.floor_ms is not None
    sure = f"{100 * draft.confidence:.3g} %"
    if draft.fraction is not None:
        low, high = (ms / draft.budget_ms * draft.fraction for ms in (draft.floor_ms, draft.bound_ms))
        between, budget = f"{low:.3f} to {high:.3f} ({sure} each)", f"{draft.fraction:g} x"
    else:
        between = f"{draft.floor_ms:.2f} to {draft.bound_ms:.2f} ms ({sure} each{_describe_drift(draft)})"
        budget = f"{draft.budget_ms:.2f} ms"
    return f"{_describe_measured(draft)}, {between}, {relation} the budget of {budget}"


def _describe_drift(draft: Certificate) -> str:
    """How the parent changed since the profile, which milliseconds depend on."""
    assert draft.parent is not None
    then = draft.profiled_parent_ms
    drift = "" if then is None else f", the parent {then:.2f} ms when profiled and {draft.parent.p50:.2f} ms now"
    return drift + (f": drift {draft.drift:.3f}" if draft.drift > 1 else "")


def compute_sha256(file: Path) -> str:
    """The digest of a file, followed by the weights beside it where it is too large to hold them; hexadecimal."""
    digest = hashlib.sha256()
    for part in (file, file.with_name(f"{file.name}.data")):
        if part.exists() or part == file:
            with part.open("rb") as content:
                while block := content.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
