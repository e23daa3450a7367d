"""Whether a machine is quiet enough to judge by: what proves that it is not, and waiting until it is."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from latency_models.measurement import Measurement
from nas.progress import Progress
from search_spaces.architecture import Architecture
from search_spaces.errors import MachineTooBusy

RANGE = 0.5  # of the parent's latency, 10th to 90th percentile over the median: a machine at rest stays below 0.3
TAIL = 3.0  # the parent's asked percentile over its median, where the budget is in milliseconds
SLOWER = 1.05  # of the parent, for a candidate that lacks parts of it; lost fusions cost less
MOVED = 1.25  # the parent's median now and when it was profiled
WAIT_S = 300.0  # from the first proof of noise on, measuring again included
_FIRST_WAIT_S, _LONGEST_WAIT_S = 5.0, 60.0


def find_noise(parent: Measurement, percentile: int | None) -> str | None:
    """What in the parent's latency proves that a machine was doing other work meanwhile; None where nothing does.

    Args:
        percentile: of a budget in milliseconds, whose tail has to be calm; None for a fraction of the parent.
    """
    spread = (parent.compute_percentile(90) - parent.compute_percentile(10)) / parent.p50
    if spread > RANGE:
        return (
            f"the parent's latency ranges over {100 * spread:.0f} % of its median (10th to 90th percentile; "
            f"a quiet machine stays below {100 * RANGE:.0f} %)"
        )
    if percentile is not None and parent.compute_percentile(percentile) > TAIL * parent.p50:
        tail = parent.compute_percentile(percentile) / parent.p50
        return f"p{percentile} of the parent is {tail:.1f} x its median (a quiet machine stays below {TAIL:.0f} x)"
    return None


def find_slower_than_parent(
    measured: Mapping[Architecture, Measurement], max_excess: float = SLOWER
) -> list[Architecture]:
    """Those that measured significantly slower than the parent that they only lack parts of: noise, if once."""
    return [
        architecture
        for architecture, its in measured.items()
        if architecture.choices and not architecture.tokens.stages and _is_slower(its, max_excess)
    ]


def _is_slower(candidate: Measurement, max_excess: float) -> bool:
    low, _ = candidate.compute_ratio_bounds()
    return candidate.compute_ratio() > max_excess and low is not None and low > 1


def check_parent_moved(then: Measurement, now: Measurement, max_change: float = MOVED) -> str | None:
    """Whether the parent's median changed by more than a factor since it was profiled, in words."""
    change = now.p50 / then.p50
    if 1 / max_change <= change <= max_change:
        return None
    return f"the parent took {then.p50:.3g} ms (p50) when it was profiled and takes {now.p50:.3g} ms now"


@dataclass
class QuietWait:
    """Waits for a machine to become quiet, longer each time and for `limit_s` in all, from the first wait on."""

    progress: Progress
    limit_s: float = WAIT_S
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _began: float | None = field(default=None, init=False)
    _next_s: float = field(default=_FIRST_WAIT_S, init=False)

    def __call__(self, reason: str) -> None:
        """Say what is wrong and wait a while.

        Raises:
            MachineTooBusy: it has been waited for long enough.
        """
        self._began = self.now() if self._began is None else self._began
        left = self._began + self.limit_s - self.now()
        if left <= 0:
            raise MachineTooBusy(reason)
        seconds = min(self._next_s, left)
        self._next_s = min(2 * self._next_s, _LONGEST_WAIT_S)
        self.progress.show_message(
            f"this machine is busy: {reason}; measuring again in {seconds:.0f} s, for another {left:.0f} s at most"
        )
        with self.progress.open_stage("waiting for a quiet machine", total=seconds) as stage:
            for _ in range(max(1, round(seconds))):
                self.sleep(seconds / max(1, round(seconds)))
                stage.advance(seconds / max(1, round(seconds)))
