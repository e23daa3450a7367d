"""A measurement: every raw sample, with what it is a measurement of."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, median
from typing import Any

from latency_models.workload import Workload
from search_spaces.errors import MeasurementError


@dataclass(frozen=True)
class Measurement:
    """Latencies of one file under one workload, in ms, in the order in which they were taken.

    Attributes:
        sentinel_ms: latencies of the sentinel (the parent) around each sample; dividing by them takes out what the
            machine was doing meanwhile.
        sessions: how many of the samples each process took, in order; empty where one took all.
        joules: energy of one inference, one value for each window in which it was read; empty where none was.

    Example:
        >>> Measurement((2.0, 4.0), Workload(Phase.FORWARD), sentinel_ms=(4.0, 8.0)).compute_ratio()
        0.5
    """

    samples_ms: tuple[float, ...]
    workload: Workload
    sentinel_ms: tuple[float, ...] = ()
    sessions: tuple[int, ...] = ()
    joules: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.samples_ms or not all(math.isfinite(ms) and ms > 0 for ms in self.samples_ms + self.sentinel_ms):
            raise MeasurementError("a measurement needs at least one sample and every sample above 0 ms; measure again")
        if self.sentinel_ms and len(self.sentinel_ms) != len(self.samples_ms):
            raise MeasurementError(
                f"{len(self.samples_ms)} samples have {len(self.sentinel_ms)} of the sentinel, which was measured in "
                "every round; measure again"
            )
        if self.sessions and (sum(self.sessions) != len(self.samples_ms) or min(self.sessions) < 1):
            raise MeasurementError(
                f"sessions {list(self.sessions)} do not add up to the {len(self.samples_ms)} samples; measure again"
            )
        if not all(math.isfinite(value) and value >= 0 for value in self.joules):
            raise MeasurementError("an energy per inference is below 0 J or no number; measure again")

    def compute_percentile(self, percent: float) -> float:
        """The smallest sample that is not exceeded by `percent` per cent of the samples."""
        ordered = sorted(self.samples_ms)
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]

    @property
    def p50(self) -> float:
        """The median, ms."""
        return self.compute_percentile(50)

    @property
    def p90(self) -> float:
        """The 90th percentile, ms."""
        return self.compute_percentile(90)

    def compute_upper_bound(self, percent: float, confidence: float = 0.99) -> float | None:
        """A sample above which the true percentile lies with at most 1 - `confidence`; None with too few samples.

        The rule by which MLPerf ends a run early, see `compute_quantile_bounds`. Samples of one process depend on one
        another; several sessions and the drift guard against that, this bound does not.
        """
        return compute_quantile_bounds(self.samples_ms, percent / 100, confidence)[1]

    def compute_lower_bound(self, percent: float, confidence: float = 0.99) -> float | None:
        """A sample below which the true percentile lies with at most 1 - `confidence`; None with too few samples."""
        return compute_quantile_bounds(self.samples_ms, percent / 100, confidence)[0]

    def compute_ratio_bounds(self, confidence: float = 0.99) -> tuple[float | None, float | None]:
        """What the true median ratio to the sentinel is below and above with at most 1 - `confidence` each.

        Ratios are of one round, so what slows both files down by as much is in neither bound.
        """
        return compute_quantile_bounds(self._ratios, 0.5, confidence) if self.sentinel_ms else (1.0, 1.0)

    def join(self, later: "Measurement") -> "Measurement":
        """These samples and later ones of the same file, as further sessions.

        Raises:
            MeasurementError: of another workload, or only one of them has a sentinel.
        """
        if later.workload != self.workload or bool(later.sentinel_ms) != bool(self.sentinel_ms):
            raise MeasurementError(f"{later.workload} is not joined to {self.workload}; measure again")
        sessions = [one.sessions or (len(one.samples_ms),) for one in (self, later)]
        return Measurement(
            self.samples_ms + later.samples_ms, self.workload, self.sentinel_ms + later.sentinel_ms,
            sessions[0] + sessions[1], self.joules + later.joules,
        )  # fmt: skip

    def compute_median_interval(self, coverage: float = 0.9) -> tuple[float, float]:
        """Two samples between which the true median lies, ms, in at least `coverage` of the cases.

        How many of `count` samples fall under the median is binomial; its quantile is taken from the normal
        distribution with the continuity correction. Fewer than five samples cover less than 90 % whatever is
        chosen. Drift is in the samples, so the interval errs on the wide side.
        """
        ordered, count = sorted(self.samples_ms), len(self.samples_ms)
        z = NormalDist().inv_cdf((1 + coverage) / 2)
        rank = max(0, math.floor(count / 2 - z * math.sqrt(count) / 2 - 0.5))
        return ordered[rank], ordered[count - 1 - rank]

    def compute_ratio(self) -> float:
        """The median over rounds of this file's latency over the sentinel's; 1 without a sentinel."""
        return median(self._ratios) if self.sentinel_ms else 1.0

    def compute_session_ratios(self) -> tuple[float, ...]:
        """The same for the samples of each process."""
        if not self.sentinel_ms:
            return (1.0,) * max(1, len(self.sessions))
        ends = list(itertools.accumulate(self.sessions or (len(self.samples_ms),)))
        return tuple(median(self._ratios[start:end]) for start, end in itertools.pairwise([0, *ends]))

    @property
    def _ratios(self) -> list[float]:
        return [own / other for own, other in zip(self.samples_ms, self.sentinel_ms, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """The JSON form, samples in ms, energy in joules per inference."""
        return {
            "workload": str(self.workload),
            "unit": "ms",
            "samples": [round(ms, 6) for ms in self.samples_ms],
            "sentinel_samples": [round(ms, 6) for ms in self.sentinel_ms],
            "sittings": list(self.sessions),
            "joules": list(self.joules),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Measurement":
        """Read what `to_json` writes.

        Raises:
            MeasurementError: on missing keys, another unit, or samples that are no latencies.
        """
        try:
            if document["unit"] != "ms":
                raise MeasurementError(f"samples are in {document['unit']!r}, not ms; measure again")
            lists = [tuple(document.get(name, ())) for name in ("sentinel_samples", "sittings", "joules")]
            return cls(tuple(document["samples"]), Workload.parse(document["workload"]), *lists)
        except (KeyError, TypeError) as error:
            raise MeasurementError(f"a measurement record is incomplete or damaged ({error}); measure again") from None


def compute_quantile_bounds(
    samples: Sequence[float], share: float, confidence: float = 0.99
) -> tuple[float | None, float | None]:
    """Two samples: the true quantile lies below the first, or above the second, with at most 1 - `confidence` each.

    Distribution-free (David and Nagaraja, Order Statistics, 2003, section 7.1): of independent samples the number
    under the true quantile is binomial, so the k-th smallest bounds it once P(at least k under it) is small enough.
    None where there are too few samples for that.
    """
    ordered, count = sorted(samples), len(samples)
    high, low = _find_bounding_rank(count, share, confidence), _find_bounding_rank(count, 1 - share, confidence)
    return (None if low is None else ordered[count - low], None if high is None else ordered[high - 1])


def compute_min_samples(percent: float, confidence: float = 0.99) -> int:
    """How many samples give a percentile an upper bound that need not be the largest of them, half as many again.

    66 for the 90th percentile and 688 for the 99th; MLPerf's early stopping asks for 64 and 662.
    """
    return math.ceil(1.5 * math.log(1 - confidence) / math.log(percent / 100))


@lru_cache(maxsize=4096)
def _find_bounding_rank(count: int, share: float, confidence: float) -> int | None:
    """The least k with P(binomial(count, share) >= k) of at most 1 - `confidence`; None where even `count` has more."""
    above, rank = 0.0, None
    for hits in range(count, 0, -1):
        above += _compute_binomial(count, hits, share)
        if above > 1 - confidence:
            break
        rank = hits
    return rank


def _compute_binomial(count: int, hits: int, share: float) -> float:
    """The probability of exactly `hits` of `count`, 0 < share < 1."""
    chosen = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(chosen + hits * math.log(share) + (count - hits) * math.log1p(-share))
