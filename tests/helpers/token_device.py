"""A device whose milliseconds are known: of a unit a fixed part, one of its tokens, one of their pairs; of a stage."""

import random
from dataclasses import dataclass, replace

from latency_models.profile import Profile
from latency_models.shape import ModelShape
from latency_models.workload import Phase, Workload
from nas.testing import SyntheticDevice
from search_spaces import Architecture, Kind, Reduction, Space, Unit
from search_spaces.architecture import drop_from_parent

DEPTH, TOKENS = 12, 577
SHAPE = ModelShape(DEPTH, 192, 6, 6, 32, 768, False, 10, False, False, 0, (None,) * DEPTH, tokens=TOKENS)
HERE = Workload(Phase.FORWARD, 4, TOKENS)
KEY = {"device": "synthetic", "runtime": "none 1", "precision": "fp32", "threads": "1", "power_mode": "fixed"}
REDUCTION = Reduction()
EVERY = tuple(Unit(layer, kind) for layer in range(DEPTH) for kind in (Kind.ATTENTION, Kind.MLP))
SPACE = Space.dropping(DEPTH, EVERY).allow_tokens(REDUCTION, range(1, DEPTH, 2), (0.75, 0.5, 0.25, 0.125))


@dataclass(frozen=True)
class TokenDevice:
    """Milliseconds on all tokens; `noise` is the log standard deviation of a sample."""

    constant: float = 1.5
    attention: tuple[float, float, float] = (0.05, 0.4, 0.3)  # fixed, of the tokens, of their pairs
    mlp: tuple[float, float] = (0.05, 0.9)
    stage: tuple[float, float] = (0.06, 0.1)  # each, and of the tokens it chooses from
    noise: float = 0.005
    seed: int = 0

    depth = DEPTH
    workload = HERE

    def compute_ms(self, architecture: Architecture) -> float:
        """The truth, block by block."""
        ratios = {stage.block: stage.permille for stage in architecture.tokens.stages}
        total, share, left, waiting = self.constant, 1.0, 1.0, False
        for block in range(DEPTH):
            if block in ratios:
                left, waiting = (1 + (TOKENS - 1) * ratios[block] // 1000) / TOKENS, True
            attention, mlp = (architecture.keeps(block, kind) for kind in (Kind.ATTENTION, Kind.MLP))
            if waiting and (attention or mlp):
                total += self.stage[0] + self.stage[1] * share
                share, waiting = left, False
            total += attention * (self.attention[0] + self.attention[1] * share + self.attention[2] * share**2)
            total += mlp * (self.mlp[0] + self.mlp[1] * share)
        return total

    def profile(self, architectures: list[Architecture]) -> Profile:
        """Noisy samples of each, the parent first."""
        return SyntheticDevice(self, self.noise, seed=self.seed, key=KEY).profile(architectures, SHAPE)


def random_architectures(seed: int, count: int) -> list[Architecture]:
    """Random structures with random schedules of one to four stages."""
    rng, found = random.Random(seed), []
    steps = [unit for unit in SPACE.choices if unit.kind is Kind.TOKENS]
    for _ in range(count):
        share = rng.random() * 0.6
        units = [unit for unit in EVERY if rng.random() < share] + rng.sample(steps, rng.randint(1, 4))
        found.append(SPACE.make_canonical(drop_from_parent(DEPTH, units, REDUCTION)))
    return found


def alone(unit: Unit) -> Architecture:
    """The parent with this one dropped."""
    return replace(Architecture.parent(DEPTH), reduction=REDUCTION).drop(unit)
