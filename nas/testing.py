"""A synthetic device and latency model with known truth, for tests of searches and of extensions.

Example:
    >>> latency = SyntheticLatency(depth=2, costs={Kind.ATTENTION: 1.0, Kind.MLP: 2.0}, stem=1.0)
    >>> latency.predict(Architecture.parent(2)).ms
    7.0
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from latency_models.marginal import compute_marginal_values
from latency_models.measurement import Measurement
from latency_models.model import Prediction
from latency_models.profile import Profile, Record
from latency_models.shape import ModelShape
from latency_models.workload import Phase, Workload
from search_spaces.architecture import Architecture, make_choice
from search_spaces.kinds import PARTS, Kind
from search_spaces.level import DROP, THOUSAND, Level
from search_spaces.rules import get_parts
from search_spaces.schedule import Reduction
from search_spaces.unit import Choice, Unit

COSTS = {Kind.ATTENTION: 1.0, Kind.MLP: 2.0}


@dataclass(frozen=True)
class SyntheticLatency:
    """A `LatencyModel` whose milliseconds add up: of the stem, of every part on the tokens it is given, of stages.

    A part at a level other than dropped costs in proportion to the smallest share among its axes.

    Attributes:
        depth: blocks of the parent.
        costs: milliseconds of an attention and of an MLP on all tokens.
        stem: milliseconds of everything outside the blocks.
        stage: milliseconds of a stage of token reduction.
        tail: percentiles above the median, over the median.
    """

    depth: int
    costs: Mapping[Kind, float] = field(default_factory=lambda: dict(COSTS))
    stem: float = 1.0
    stage: float = 0.0
    tail: float = 1.0
    workload: Workload = field(default_factory=lambda: Workload(Phase.FORWARD))
    measured: bool = True
    label: str = "synthetic"
    profile: Profile | None = None

    def refit(self, profile: Profile) -> "SyntheticLatency":
        """The truth, whatever was measured of it."""
        return replace(self, profile=profile)

    def compute_ms(self, architecture: Architecture) -> float:
        """The true median."""
        shares = architecture.tokens.compute_shares(self.depth)
        parts = (Unit(layer, kind) for layer in range(self.depth) for kind in PARTS)
        levels = {part: architecture.get_level(part) for part in parts if not architecture.drops(part)}
        work = math.fsum(
            shares[part.layer] * self.costs[part.kind] * _compute_share(level) for part, level in levels.items()
        )
        return self.stem + work + self.stage * len(architecture.tokens.stages)

    def predict(self, architecture: Architecture, percentile: int = 50) -> Prediction:
        """The truth, without an interval."""
        ms = self.compute_ms(architecture) * (self.tail if percentile > 50 else 1.0)
        return Prediction(ms, ms, ms, percentile)

    def predict_unit_ms(self, chosen: Unit | Choice) -> float:
        """What one choice saves of the parent."""
        choice = make_choice(chosen)
        if choice.level == DROP:
            return sum(self.costs[kind] for kind in get_parts(choice.unit.kind))
        parent = Architecture.parent(self.depth)
        return self.compute_ms(parent) - self.compute_ms(parent.drop(choice))

    def predict_savings(self, choices: Iterable[Choice], reduction: Reduction | None = None) -> dict[Choice, float]:
        """What each choice adds to the savings of a set of them."""
        return compute_marginal_values({choice: self.predict_unit_ms(choice) for choice in choices})


@dataclass
class SyntheticDevice:
    """Measures the truth of a `SyntheticLatency` with noise, and with a pace that differs between measurements.

    Attributes:
        noise: log standard deviation of a sample.
        drift: log standard deviation of the machine's pace, drawn for every measurement.
    """

    latency: SyntheticLatency
    noise: float = 0.02
    drift: float = 0.0
    seed: int = 0
    key: Mapping[str, str] = field(default_factory=lambda: {"device": "synthetic", "runtime": "none 1"})

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def measure(self, architectures: Sequence[Architecture], samples: int = 40) -> tuple[Record, ...]:
        """Each measured beside the parent, which comes first."""
        pace = self._rng.lognormvariate(0, self.drift)
        parent = Architecture.parent(self.latency.depth)
        beside = self._draw_samples(parent, pace, samples)
        chosen = [each for each in dict.fromkeys(architectures) if each != parent]
        taken = {parent: beside, **{each: self._draw_samples(each, pace, samples) for each in chosen}}
        return tuple(Record(a, Measurement(mine, self.latency.workload, beside)) for a, mine in taken.items())

    def profile(self, architectures: Sequence[Architecture], shape: ModelShape) -> Profile:
        """The profile that such measurements make."""
        return Profile(dict(self.key), "synthetic", shape, self.latency.workload, self.measure(architectures))

    def _draw_samples(self, architecture: Architecture, pace: float, count: int) -> tuple[float, ...]:
        ms = self.latency.compute_ms(architecture) * pace
        return tuple(ms * self._rng.lognormvariate(0, self.noise) for _ in range(count))


def _compute_share(level: Level) -> float:
    return min((value / THOUSAND for _, value in level.axes), default=1.0)
