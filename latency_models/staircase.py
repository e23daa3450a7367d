"""Which numbers of tokens cost the same: runtimes work in tiles, so that fewer tokens may take as long.

A step is a run of measured counts whose latencies are equal within the noise; of a step the largest count is the one to
take: more tokens for the same milliseconds. Unmeasured, counts are rounded up to a multiple of the usual tile.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from latency_models.measurement import Measurement
from search_spaces.level import THOUSAND
from search_spaces.schedule import Stage

CPU_TILE, ACCELERATOR_TILE = 8, 64  # tokens: a vector register of a CPU, a tile of tensor cores
NOISE, MAX_NOISE = 0.01, 0.05  # relative, of a median: what is at least taken for noise, and with what nothing is seen


@dataclass(frozen=True)
class Staircase:
    """The counts of tokens of a sequence that are the largest of their step.

    Attributes:
        tops: measured largest counts, rising; empty where nothing was measured.
        lows: the smallest measured count of each step.
        tile: counts go in multiples of this many where nothing was measured.

    Example:
        >>> Staircase(tops=(16, 32, 64), lows=(1, 17, 33)).count(20, maximum=64)
        32
    """

    tops: tuple[int, ...] = ()
    lows: tuple[int, ...] = ()
    tile: int = CPU_TILE

    @property
    def smooth(self) -> bool:
        """Whether every measured count is a step of its own: fewer tokens always take less time."""
        return bool(self.tops) and self.tops == self.lows

    def count(self, tokens: int, maximum: int) -> int:
        """The largest number of tokens, at most `maximum`, that takes no longer than `tokens`.

        Between two steps it is not known where the second begins: such a count is rounded up to a tile first.
        """
        whole = -(-tokens // self.tile) * self.tile
        steps = list(zip(self.lows, self.tops, strict=True))
        tops = (top for count in (tokens, whole) for low, top in steps if low <= count <= top)
        return min(maximum, next(tops, whole))

    def snap(self, ratio: float, droppable: int, others: int = 0) -> float:
        """The largest ratio that costs what this one costs, to a thousandth.

        Args:
            ratio: of the droppable tokens that stay.
            droppable, others: tokens of a sequence that may be dropped, and that always stay.
        """
        kept = int(Stage(0, max(1, round(THOUSAND * ratio))).count_kept(droppable))
        wanted = self.count(kept + others, droppable + others) - others
        if wanted <= kept:
            return ratio
        # The smallest thousandth of which as many are left; where thousandths are too coarse, the largest below.
        permille = -(-wanted * THOUSAND // droppable)
        left = int(Stage(0, min(permille, THOUSAND)).count_kept(droppable))
        return min(THOUSAND, permille - (left > wanted)) / THOUSAND

    def list_ratios(self, ratios: Iterable[float], droppable: int, others: int = 0) -> tuple[float, ...]:
        """Those of the ratios, each snapped, that still drop anything, rising; one for each number of tokens."""
        snapped = sorted({self.snap(ratio, droppable, others) for ratio in ratios})
        counts = {int(Stage(0, round(THOUSAND * ratio)).count_kept(droppable)): ratio for ratio in snapped if ratio < 1}
        return tuple(counts.values())


def build_staircase(milliseconds: Mapping[int, float], noise: float = NOISE, tile: int = CPU_TILE) -> Staircase:
    """The steps of measured medians by number of tokens.

    From the largest count down a step goes on while a count is not faster than the step's largest by more than the
    noise, so that no step is wider than that, however gently the curve falls. A count that measures slower than a
    larger one is on the larger one's step.

    Args:
        milliseconds: count of tokens to median latency.
        noise: relative difference of two medians that means nothing.
        tile: of counts where nothing was measured.
    """
    tops: list[int] = []
    lows: list[int] = []
    for count in sorted(milliseconds, reverse=True):
        if tops and milliseconds[count] >= milliseconds[tops[-1]] * (1 - noise):
            lows[-1] = count
        else:
            tops.append(count)
            lows.append(count)
    return Staircase(tuple(reversed(tops)), tuple(reversed(lows)), tile)


def build_measured_staircase(measured: Mapping[int, Measurement], tile: int = CPU_TILE) -> Staircase:
    """The steps of measurements by number of tokens; where they have a sentinel, the ratios to it count.

    The noise is that of two medians, and never below 1 %. Above 5 % no step can be told from a slope: then
    counts are rounded to the tile, as where nothing was measured.
    """
    noises = sorted(_measure_noise(one) for one in measured.values())
    noise = max([NOISE, *noises[len(noises) // 2 :][:1]])
    if noise > MAX_NOISE:
        return Staircase(tile=tile)
    return build_staircase(
        {count: one.compute_ratio() if one.sentinel_ms else one.p50 for count, one in measured.items()}, noise, tile
    )


def _find_level(one: Measurement) -> float:
    return one.compute_ratio() if one.sentinel_ms else one.p50


def _measure_noise(one: Measurement) -> float:
    """The width of the 90 % interval of the median ratio to the sentinel, relative: two such medians are compared."""
    sentinel = one.sentinel_ms or (1.0,) * len(one.samples_ms)
    ratios = tuple(mine / its for mine, its in zip(one.samples_ms, sentinel, strict=True))
    low, high = Measurement(ratios, one.workload).compute_median_interval(0.9)
    return (high - low) / _find_level(one)


def compute_widths(steps: Staircase) -> tuple[int, ...]:
    """How many tokens lie between the largest counts of neighbouring steps."""
    return tuple(later - earlier for earlier, later in pairwise(steps.tops))
