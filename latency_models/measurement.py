"""A measurement: every raw sample, with what it is a measurement of."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from latency_models.workload import Workload
from search_spaces.errors import MeasurementError


@dataclass(frozen=True)
class Measurement:
    """Latencies of one file under one workload, in ms, in the order in which they were taken.

    `sentinel_ms` are the latencies of the sentinel (the parent) in the same rounds; dividing by them takes out
    what the machine was doing meanwhile.
    """

    samples_ms: tuple[float, ...]
    workload: Workload
    sentinel_ms: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.samples_ms or not all(math.isfinite(ms) and ms > 0 for ms in self.samples_ms + self.sentinel_ms):
            raise MeasurementError("a measurement needs at least one sample and every sample above 0 ms; measure again")
        if self.sentinel_ms and len(self.sentinel_ms) != len(self.samples_ms):
            raise MeasurementError(
                f"{len(self.samples_ms)} samples have {len(self.sentinel_ms)} of the sentinel, which was measured in "
                "every round; measure again"
            )

    def percentile(self, percent: float) -> float:
        """The smallest sample that is not exceeded by `percent` per cent of the samples."""
        ordered = sorted(self.samples_ms)
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]

    @property
    def p50(self) -> float:
        """The median, ms."""
        return self.percentile(50)

    @property
    def p90(self) -> float:
        """The 90th percentile, ms."""
        return self.percentile(90)

    def median_interval(self, coverage: float = 0.9) -> tuple[float, float]:
        """Two samples between which the true median lies, ms, in at least `coverage` of the cases.

        How many of `count` samples fall under the median is binomial; its quantile is taken from the normal
        distribution with the continuity correction. Fewer than five samples cover less than 90 % whatever is
        chosen. Drift is in the samples, so the interval errs on the wide side.
        """
        ordered, count = sorted(self.samples_ms), len(self.samples_ms)
        z = NormalDist().inv_cdf((1 + coverage) / 2)
        rank = max(0, math.floor(count / 2 - z * math.sqrt(count) / 2 - 0.5))
        return ordered[rank], ordered[count - 1 - rank]

    def ratio(self) -> float:
        """The median over rounds of this file's latency over the sentinel's; 1 without a sentinel."""
        if not self.sentinel_ms:
            return 1.0
        ratios = sorted(own / other for own, other in zip(self.samples_ms, self.sentinel_ms, strict=True))
        middle = len(ratios) // 2
        return ratios[middle] if len(ratios) % 2 else (ratios[middle - 1] + ratios[middle]) / 2

    def to_json(self) -> dict[str, Any]:
        """The JSON form, samples in ms."""
        return {
            "workload": str(self.workload),
            "unit": "ms",
            "samples": [round(ms, 6) for ms in self.samples_ms],
            "sentinel_samples": [round(ms, 6) for ms in self.sentinel_ms],
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
            samples, sentinel = tuple(document["samples"]), tuple(document.get("sentinel_samples", ()))
            return cls(samples, Workload.parse(document["workload"]), sentinel)
        except (KeyError, TypeError) as error:
            raise MeasurementError(f"a measurement record is incomplete or damaged ({error}); measure again") from None
