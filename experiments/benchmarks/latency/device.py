"""A device whose truth is known: coefficients, fused pairs, a tile staircase, noise, a tail and drift."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from latency_models.measurement import Measurement
from latency_models.measurement_design import design_measurements
from latency_models.profile import Profile, Record
from latency_models.shape import ModelShape
from latency_models.terms import list_kept_units
from latency_models.workload import Phase, Workload
from search_spaces.architecture import Architecture, drop_from_parent
from search_spaces.kinds import Kind

DEPTH, TILE, ROUNDS = 16, 64, 40
PARENT = Architecture.parent(DEPTH)
WORKLOAD = Workload(Phase.FORWARD, 1, 200)
SHAPE = ModelShape(DEPTH, 256, 8, 8, 32, 1024, False, 1000, True, True, 0, (None,) * DEPTH)
KEY = {"device": "synthetic", "runtime": "none 1", "precision": "fp32", "threads": "1", "power_mode": "fixed"}


@dataclass
class Device:
    """Milliseconds per unit follow from the tokens, padded to a tile; samples have noise and a tail; it drifts.

    Attributes:
        fused: the share of an attention that is saved where an MLP follows it directly.
        wave: units per scheduling wave; a wave that is begun costs `wave_ms`.
        noise, tail: spread of a sample (log), and the share of samples that are half as slow again.
        drift: spread (log) of the pace from one sample to the next, which adds up.
    """

    seed: int
    constant: float = 1.2
    attention_ns: float = 1500.0  # per padded token
    mlp_ns: float = 2500.0
    fused: float = 0.06
    wave: int = 4
    wave_ms: float = 0.08
    noise: float = 0.03
    tail: float = 0.03
    drift: float = 0.001
    rng: random.Random = field(init=False)
    pace: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    @property
    def unit_ms(self) -> dict[Kind, float]:
        """The true milliseconds of a unit that is fused with nothing."""
        padded = -(-WORKLOAD.tokens // TILE) * TILE
        return {Kind.ATTENTION: padded * self.attention_ns / 1e6, Kind.MLP: padded * self.mlp_ns / 1e6}

    def compute_true_ms(self, architecture: Architecture) -> float:
        """Without noise, tail and drift."""
        kinds = [unit.kind for unit in list_kept_units(architecture)]
        own = sum(self.unit_ms[kind] for kind in kinds)
        fused = sum(pair == (Kind.ATTENTION, Kind.MLP) for pair in itertools.pairwise(kinds))
        waves = -(-len(kinds) // self.wave)
        return self.constant + own - fused * self.fused * self.unit_ms[Kind.ATTENTION] + waves * self.wave_ms

    def measure(self, architectures: Sequence[Architecture], rounds: int) -> tuple[Record, ...]:
        """Interleaved with the parent before and after each sample, whose mean is the sentinel's."""
        true = {architecture: self.compute_true_ms(architecture) for architecture in (PARENT, *architectures)}
        samples: dict[Architecture, list[tuple[float, float]]] = {a: [] for a in architectures}
        before = self._sample(true[PARENT])
        for _ in range(rounds):
            for architecture in self.rng.sample(list(architectures), len(architectures)):
                own, after = self._sample(true[architecture]), self._sample(true[PARENT])
                samples[architecture].append((own, (before + after) / 2))
                before = after
        return tuple(
            Record(a, Measurement(tuple(s for s, _ in pairs), WORKLOAD, tuple(p for _, p in pairs)))
            for a, pairs in samples.items()
        )

    def profile(self) -> Profile:
        """The design, measured."""
        return Profile(KEY, "synthetic", SHAPE, WORKLOAD, self.measure(design_measurements(DEPTH, self.seed), ROUNDS))

    def _sample(self, ms: float) -> float:
        self.pace *= self.rng.lognormvariate(0, self.drift)
        slow = 1.5 if self.rng.random() < self.tail else 1.0
        return ms * self.pace * slow * self.rng.lognormvariate(0, self.noise)


def draw_architectures(seed: int, count: int) -> list[Architecture]:
    rng = random.Random(seed)
    units = list_kept_units(PARENT)
    drawn: dict[Architecture, None] = {}
    while len(drawn) < count:
        share = rng.random()
        drawn[drop_from_parent(DEPTH, (unit for unit in units if rng.random() < share))] = None
    return list(drawn)
