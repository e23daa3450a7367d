"""What an architecture will lose, from the library and from what was evaluated so far.

To second order, the divergence from the parent of several disturbances together is the sum of their own losses c plus
a term for every pair, at most 2 sqrt(c c') in size: they may add up, or cancel. So the loss of a set of drops is

    sum of c_u  +  sum over pairs of r_uv sqrt(c_u c_v)

with r made of a part that all pairs of the same kinds and distance in depth share, which a dozen evaluations
determine, and of a smaller part of the pair's own. Ridge regression on the relative excess over the sum.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.search.solve import Pair
from search_spaces.architecture import Architecture
from search_spaces.unit import Unit

FAR = 3  # blocks; beyond, the distance makes no difference
OWN = 0.5  # how much a pair may differ from others like it, relative to how much those may differ from 0
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
LEAST_SEEN = 5
Array = NDArray[np.float64]


class Surrogate:
    """The expected loss of an architecture; `pairs` is what each pair of drops adds to the sum."""

    def __init__(self, units: Sequence[Unit], library: dict[Unit, float], pairs: dict[Pair, float]) -> None:
        """`library` is the loss of each unit dropped alone. Without `pairs` it is the plain sum."""
        self.units, self.library, self.pairs = tuple(units), library, pairs
        self._alone = np.array([max(library[unit], 0.0) for unit in self.units])
        self._together = np.zeros((len(self.units), len(self.units)))
        place = {unit: number for number, unit in enumerate(self.units)}
        for (one, other), value in pairs.items():
            self._together[place[one], place[other]] = value

    @classmethod
    def fit(
        cls, units: Sequence[Unit], library: dict[Unit, float], seen: Sequence[tuple[Architecture, float]]
    ) -> "Surrogate":
        """Fit the pairs to evaluated architectures; the plain sum where leave-one-out says that it predicts better."""
        plain = cls(units, library, {})
        known = [(a, loss) for a, loss in seen if sum(a.drops(unit) for unit in units) > 1]
        if len(known) < LEAST_SEEN:
            return plain
        design = _Design(plain)
        sums = np.array([plain(a) for a, _ in known]) + 1e-12
        features = design.features([a for a, _ in known]) / sums[:, None]
        excess = np.array([loss for _, loss in known]) / sums - 1.0
        fits = [_ridge(features, excess, penalty) for penalty in PENALTIES]
        error, weights = min(fits, key=lambda fit: fit[0])
        return plain if error >= float(np.abs(excess).mean()) else cls(units, library, design.pairs(weights))

    def __call__(self, architecture: Architecture) -> float:
        """The expected loss, never negative."""
        gone = np.array([1.0 if architecture.drops(unit) else 0.0 for unit in self.units])
        return max(0.0, float(gone @ self._alone + gone @ self._together @ gone))


class _Design:
    """Features of an architecture: for every class of pairs their summed sqrt(c c'), then that of each pair."""

    def __init__(self, plain: Surrogate) -> None:
        self.units = plain.units
        count = len(self.units)
        self.places = [(i, j) for i in range(count) for j in range(i + 1, count)]
        roots = [math.sqrt(max(plain.library[unit], 0.0)) for unit in self.units]
        self.scale = np.array([roots[i] * roots[j] for i, j in self.places])
        classes = [_class_of(self.units[i], self.units[j]) for i, j in self.places]
        names = sorted(set(classes))
        self.shared = np.zeros((len(self.places), len(names)))
        self.shared[range(len(self.places)), [names.index(name) for name in classes]] = 1.0

    def features(self, architectures: Sequence[Architecture]) -> Array:
        gone = np.array([[1.0 if a.drops(unit) else 0.0 for unit in self.units] for a in architectures])
        first, second = np.array(self.places).T
        both = gone[:, first] * gone[:, second] * self.scale
        return np.hstack([both @ self.shared, OWN * both])

    def pairs(self, weights: Array) -> dict[Pair, float]:
        classes = self.shared.shape[1]
        values = (self.shared @ weights[:classes] + OWN * weights[classes:]) * self.scale
        return {
            (self.units[i], self.units[j]): float(value)
            for (i, j), value in zip(self.places, values, strict=True)
            if abs(value) > 1e-9
        }


def _class_of(one: Unit, other: Unit) -> tuple[str, str, int]:
    kinds = sorted((str(one.kind), str(other.kind)))
    return kinds[0], kinds[1], min(abs(one.layer - other.layer), FAR)


def _ridge(features: Array, wanted: Array, penalty: float) -> tuple[float, Array]:
    """Mean absolute leave-one-out error, and the weights, in the dual form: fewer observations than features."""
    inverse = np.linalg.inv(features @ features.T + penalty * np.eye(len(wanted)))
    dual = inverse @ wanted
    return float(np.abs(dual / np.diag(inverse)).mean()), features.T @ dual
