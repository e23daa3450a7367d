"""What sets of choices save, as the exact solve and the sampler estimate it without asking the latency model.

Parts of the parent add up, and so do steps of token reduction once each has only what it adds to those it implies
(`latency_models.marginal`). Together they do not: what a dropped part would have done with fewer tokens is saved once.
The tokens' savings in some blocks are taken in proportion to what is kept of those blocks, which is a term for every
pair of a step and a part of the blocks up to the next stage there may be.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latency_models.model import LatencyModel
from search_spaces.encoding import Encoding, Rows
from search_spaces.space import Space
from search_spaces.unit import Choice, Unit


@dataclass(frozen=True)
class Savings:
    """Milliseconds: of each choice, and by how much less two save together than each alone."""

    alone: dict[Choice, float]
    overlap: dict[tuple[Choice, Choice], float]

    @cached_property
    def encoding(self) -> Encoding:
        """Columns in the order of `alone`."""
        return Encoding(tuple(self.alone))

    def compute(self, rows: Rows) -> NDArray[np.float64]:
        """(n,): what each row of `encoding` saves, to a billionth, so that equal sets are equal."""
        columns = {choice: position for position, choice in enumerate(self.alone)}
        dropped = rows.astype(np.float64)
        saved = dropped @ np.array(list(self.alone.values()))
        if self.overlap:
            first, second = np.array([[columns[one], columns[other]] for one, other in self.overlap]).T
            saved -= (dropped[:, first] * dropped[:, second]) @ np.array(list(self.overlap.values()))
        return np.asarray(saved.round(9))


def compute_overlaps(
    space: Space, alone: Mapping[Choice, float], latency: LatencyModel
) -> dict[tuple[Choice, Choice], float]:
    """By how much less a step and a part of its blocks save together; empty without choices of both sorts."""
    blocks = sorted({step.layer for step in space.steps})
    ends = dict(itertools.pairwise([*blocks, space.depth]))
    overlaps = {}
    for step in space.steps:
        layers = range(step.layer, ends[step.layer])
        whole = sum(latency.predict_unit_ms(Unit(layer, kind).dropped) for layer in layers for kind in space.parts)
        for part in (choice for choice in space.structure if choice.layer in layers):
            share = latency.predict_unit_ms(part) / whole if whole > 0 else 0.0
            one, other = sorted((step, part))
            overlaps[one, other] = min(max(share, 0.0), 1.0) * alone[step]
    return overlaps
