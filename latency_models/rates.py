"""What each term of a latency model achieves: arithmetic and bytes per second, and the roof that it is under."""

from dataclasses import asdict, dataclass
from typing import Any

from latency_models.datasheet_model import compute_roof_seconds
from latency_models.targets import Target
from latency_models.terms import SHARED, Terms
from latency_models.work import Work, compute_stem_work, compute_unit_work

USUAL_BALANCE = 10.0  # operations per byte at which the two roofs of a device meet, where no data sheet tells


@dataclass(frozen=True)
class Rate:
    """One term.

    Attributes:
        units: how many of them the parent has; `ms` is of one (p50).
        tflops, gb_s: achieved; None where the term has no work of its own that is known, or costs nothing.
        roof: what bounds it: arithmetic, memory or launches.

    Example:
        >>> Rate("mlp", units=12, ms=0.4, tflops=2.1, gb_s=60.0, roof="arithmetic").to_json()["ms"]
        0.4
    """

    term: str
    units: int
    ms: float
    tflops: float | None
    gb_s: float | None
    roof: str | None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def compute_rates(terms: Terms, milliseconds: dict[str, float], target: Target) -> list[Rate]:
    """The rates of terms by their names, in milliseconds each, on a target."""
    return [_compute_rate(terms, name, ms, target) for name, ms in milliseconds.items()]


def _compute_rate(terms: Terms, name: str, ms: float, target: Target) -> Rate:
    units = terms.classes.get(name, [])
    if not (units or name == SHARED[0]) or ms <= 0:
        return Rate(name, max(1, len(units)), ms, None, None, None)
    shape, workload = terms.shape, terms.workload
    work, count = compute_stem_work(shape, workload, target.precision), 1
    if units:
        work, count = compute_unit_work(shape, units[0], workload, target.precision), len(units)
    return Rate(name, count, ms, work.flops / ms / 1e9, work.bytes_moved / ms / 1e6, _name_roof(work, target))


def _name_roof(work: Work, target: Target) -> str:
    """What takes longest by the data sheet and the usual efficiencies; without one, by the usual balance."""
    if target.sheet is None:
        return "arithmetic" if work.flops > USUAL_BALANCE * work.bytes_moved else "memory"
    seconds = compute_roof_seconds(work, target.sheet)
    return max(seconds, key=seconds.__getitem__)
