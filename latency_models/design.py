"""Which architectures to measure so that the terms of a latency model can be told apart."""

import random

from search_spaces.architecture import Architecture
from search_spaces.unit import Kind, Unit

RANDOM_PATTERNS = 8


def design(depth: int, seed: int = 0) -> list[Architecture]:
    """What to measure so that every term can be told apart.

    The parent, the bare stem, attentions only, MLPs only, half the depth, every other unit of a kind, one unit of
    each kind by itself, and random mixtures of different sizes.
    """
    rng = random.Random(seed)
    every = {kind: [Unit(layer, kind) for layer in range(depth)] for kind in (Kind.ATTENTION, Kind.MLP)}
    attention, mlp = every[Kind.ATTENTION], every[Kind.MLP]
    half = [unit for unit in attention + mlp if unit.layer >= depth // 2]
    chosen: list[list[Unit]] = [[], attention + mlp, mlp, attention, half, attention[::2], mlp[::2]]
    chosen += [[units[depth // 2]] for units in (attention, mlp)]
    for number in range(RANDOM_PATTERNS):
        share = 0.15 + 0.6 * number / max(1, RANDOM_PATTERNS - 1)
        chosen.append([unit for unit in attention + mlp if rng.random() < share])
    return list(dict.fromkeys(Architecture(depth, frozenset(units)) for units in chosen))
