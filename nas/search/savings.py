"""What sets of units save, as the exact solve and the sampler estimate it without asking the latency model.

Parts of the parent add up, and so do token units once each has only what it adds to those it implies
(`latency_models.marginal`). Together they do not: what a dropped part would have done with fewer tokens is saved once.
The tokens' savings in some blocks are taken in proportion to what is kept of those blocks, which is a term for every
pair of a token unit and a part of the blocks up to the next stage there may be.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latency_models.model import LatencyModel
from nas.search.incidence import Incidence, Rows
from search_spaces.space import Space
from search_spaces.unit import Kind, Unit


@dataclass(frozen=True)
class Savings:
    """Milliseconds: of each unit, and by how much less two save together than each alone."""

    alone: dict[Unit, float]
    overlap: dict[tuple[Unit, Unit], float]

    @cached_property
    def incidence(self) -> Incidence:
        """Columns in the order of `alone`."""
        return Incidence(tuple(self.alone))

    def of(self, rows: Rows) -> NDArray[np.float64]:
        """(n,): what each row of `incidence` saves, to a billionth, so that equal sets are equal."""
        units = {unit: place for place, unit in enumerate(self.alone)}
        gone = rows.astype(np.float64)
        saved = gone @ np.array(list(self.alone.values()))
        if self.overlap:
            first, second = np.array([[units[one], units[other]] for one, other in self.overlap]).T
            saved -= (gone[:, first] * gone[:, second]) @ np.array(list(self.overlap.values()))
        return np.asarray(saved.round(9))


def overlaps(space: Space, alone: Mapping[Unit, float], latency: LatencyModel) -> dict[tuple[Unit, Unit], float]:
    """By how much less a token unit and a part of its blocks save together; empty without both kinds of unit."""
    blocks = sorted({unit.layer for unit in space.units if unit.kind is Kind.TOKENS})
    ends = dict(itertools.pairwise([*blocks, space.depth]))
    found = {}
    for step in (unit for unit in space.units if unit.kind is Kind.TOKENS):
        layers = range(step.layer, ends[step.layer])
        whole = sum(latency.unit_ms(Unit(layer, kind)) for layer in layers for kind in (Kind.ATTENTION, Kind.MLP))
        for part in (unit for unit in space.structure if unit.layer in layers):
            share = latency.unit_ms(part) / whole if whole > 0 else 0.0
            one, other = sorted((step, part))
            found[one, other] = min(max(share, 0.0), 1.0) * alone[step]
    return found
