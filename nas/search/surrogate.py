"""What an architecture will lose, from the library and from what was evaluated so far.

To second order, the divergence from the parent of several disturbances together is the sum of their own losses c plus
a term for every pair, at most 2 sqrt(c c') in size: they may add up, or cancel. So the loss of a set of drops is about

    sum of c_u  +  sum over pairs of r_uv sqrt(c_u c_v)

with r made of a part that all pairs of the same kinds and distance in depth share, which a dozen evaluations
determine, and of a smaller part of the pair's own. Two fits of it: the exact solve needs it linear (ridge regression on
the relative excess over the sum); proposals are ranked by a Gaussian process on the logarithm of that excess, which
also knows that neighbours, architectures that differ in few choices, err alike.

A token schedule is one disturbance however many choices it is made of: the loss of a single stage is the sum of its
own, and the square root of it is spread over them in the same way (`latency_models.marginal`), so that pairs of
steps and parts add up to r sqrt(c c') with c the stage's loss. Several stages have a term of their own.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latency_models.marginal import compute_marginal_values
from nas.search.solve import Pair
from search_spaces.architecture import Architecture
from search_spaces.encoding import Encoding, Rows
from search_spaces.kinds import KINDS
from search_spaces.unit import Choice, is_cumulative, list_kinds

FAR = 3  # blocks; beyond, the distance makes no difference
OWN = 0.5  # how much a pair may differ from others like it, relative to how much those may differ from 0
ALIKE = 0.3  # how much neighbours share beyond their pairs
REACH = 4.0  # choices; how far neighbourhood goes
STRONGEST = 60  # pairs that the exact solve is given: with all of 276 it takes seconds, with these hundredths
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
MIN_SEEN = 5
TINY = 1e-9
Array = NDArray[np.float64]


class Surrogate:
    """Ranks architectures by expected loss; `pairs` is what each pair of drops adds to the sum, for the exact solve."""

    def __init__(self, choices: Sequence[Choice], library: dict[Choice, float], start: float = 0.0) -> None:
        """The plain sum; `library` is what each choice adds (`score_library`) to the loss `start`."""
        self.library = library
        self.pairs: dict[Pair, float] = {}
        self._design = _build_design(tuple(choices), tuple(library[choice] for choice in choices), start)
        self._correction: Callable[[Array], Array] | None = None

    @classmethod
    def fit(
        cls,
        choices: Sequence[Choice],
        library: dict[Choice, float],
        seen: Sequence[tuple[Architecture, float]],
        start: float = 0.0,
    ) -> "Surrogate":
        """Fit to evaluated architectures; each part only where leave-one-out says that it predicts better."""
        surrogate = cls(choices, library, start)
        design = surrogate._design
        several = design.encoding.decode(design.encoding.encode_rows([a for a, _ in seen]))
        known = [pair for pair, dropped in zip(seen, several, strict=True) if len(dropped) > 1 and pair[1] > 0]
        if len(known) < MIN_SEEN:
            return surrogate
        dropped = design.encode_dropped([a for a, _ in known])
        losses, sums = np.array([loss for _, loss in known]), design.compute_sums(dropped)
        features = design.compute_features(dropped)
        surrogate._fit_pairs(features, losses / sums - 1.0)
        surrogate._fit_correction(dropped, features, np.log(losses / sums))
        return surrogate

    @property
    def encoding(self) -> Encoding:
        """How architectures are read as rows."""
        return self._design.encoding

    def rank(self, architectures: Sequence[Architecture]) -> list[Architecture]:
        """Least expected loss first."""
        expected = self.predict(architectures)
        order = sorted(
            range(len(architectures)), key=lambda position: (expected[position], architectures[position].digest)
        )
        return [architectures[position] for position in order]

    def predict(self, architectures: Sequence[Architecture]) -> Array:
        """The expected losses."""
        return self.predict_rows(self._design.encoding.encode_rows(architectures))

    def predict_rows(self, rows: Rows) -> Array:
        """The expected losses of canonical rows of `encoding`, to a trillionth: equals are equal in any company."""
        if not len(rows):
            return np.zeros(0)
        dropped = rows.astype(np.float64)
        expected = self._design.compute_sums(dropped)
        if self._correction is not None:
            expected = expected * np.exp(self._correction(dropped))
        return np.asarray(expected.round(12))

    def _fit_pairs(self, features: Array, excess: Array) -> None:
        fit = _fit_ridge(features @ features.T, excess)
        if fit.error < float(np.abs(excess).mean()):
            pairs = self._design.list_pairs(features.T @ fit.dual)
            self.pairs = dict(sorted(pairs.items(), key=lambda pair: (-abs(pair[1]), pair[0]))[:STRONGEST])

    def _fit_correction(self, dropped: Array, features: Array, excess: Array) -> None:
        design, mean = self._design, float(excess.mean())
        known = design.spread(dropped)
        fit = _fit_ridge(features @ features.T + _find_neighbourhood(known, known), excess - mean)
        if fit.error >= float(np.abs(excess - np.median(excess)).mean()):
            return
        by_pairs = design.weight(features.T @ fit.dual)

        def correct(others: Array) -> Array:
            return np.asarray(mean + by_pairs(others) + _find_neighbourhood(design.spread(others), known) @ fit.dual)

        self._correction = correct


class _Design:
    """Architectures as numbers: what is dropped, the sum of its losses, and its pairs relative to that sum."""

    def __init__(self, choices: tuple[Choice, ...], losses: tuple[float, ...], start: float) -> None:
        self.choices, self.start, self.encoding = choices, start, Encoding(choices)
        tokens, alone = self.encoding.cumulative, np.array(losses)
        self.alone = np.where(tokens, alone, np.maximum(alone, 0.0))
        self.root = _compute_roots(self.encoding, self.alone)
        first, second = np.triu_indices(len(choices), 1)
        apart = ~(tokens[first] & tokens[second]) & ~self.encoding.alternatives[first, second]
        self.first, self.second = first[apart], second[apart]
        self.scale = self.root[self.first] * self.root[self.second]
        classes = [_name_class(choices[i], choices[j]) for i, j in zip(self.first, self.second, strict=True)]
        names = sorted(set(classes))
        self.shared = np.zeros((len(classes), len(names)))
        self.shared[range(len(classes)), [names.index(name) for name in classes]] = 1.0

    def encode_dropped(self, architectures: Sequence[Architecture]) -> Array:
        """One row each, with numbers for truth values."""
        rows: Rows = self.encoding.encode_rows(architectures)
        return rows.astype(np.float64)

    def spread(self, dropped: Array) -> Array:
        """Rows whose squared distances count choices: a stage that moves changes one at each of the larger ratios."""
        ratios = self.encoding.level_count
        return np.asarray(dropped * np.sqrt(np.where(self.encoding.cumulative, 2.0 / max(ratios, 2), 1.0)))

    def compute_sums(self, dropped: Array) -> Array:
        return np.asarray(self.start + dropped @ self.alone + TINY)

    def compute_features(self, dropped: Array) -> Array:
        sums = self.compute_sums(dropped)[:, None]
        both = dropped[:, self.first] * dropped[:, self.second] * self.scale / sums
        parts = [both @ self.shared, OWN * both]
        tokens = self.encoding.cumulative
        if tokens.any():
            own = dropped[:, tokens]
            parts.append(((own @ self.root[tokens]) ** 2 - own @ self.alone[tokens])[:, None] / sums)
        return np.hstack(parts)

    def weight(self, weights: Array) -> Callable[[Array], Array]:
        """`compute_features(dropped) @ weights` of any rows, as a quadratic form: a thousand have many features."""
        matrix, tokens = np.zeros((len(self.choices), len(self.choices))), self.encoding.cumulative
        matrix[self.first, self.second] = self._compute_terms(weights)

        def apply(dropped: Array) -> Array:
            weighted = ((dropped @ matrix) * dropped).sum(1)
            if tokens.any():
                own = dropped[:, tokens]
                weighted += weights[-1] * ((own @ self.root[tokens]) ** 2 - own @ self.alone[tokens])
            return np.asarray(weighted / self.compute_sums(dropped))

        return apply

    def list_pairs(self, weights: Array) -> dict[Pair, float]:
        named = zip(self.first, self.second, self._compute_terms(weights), strict=True)
        return {(self.choices[i], self.choices[j]): float(value) for i, j, value in named if abs(value) > TINY}

    def _compute_terms(self, weights: Array) -> Array:
        """What each pair adds."""
        classes, own = self.shared.shape[1], len(self.first)
        return np.asarray((self.shared @ weights[:classes] + OWN * weights[classes : classes + own]) * self.scale)


@lru_cache(maxsize=4)
def _build_design(choices: tuple[Choice, ...], losses: tuple[float, ...], start: float) -> _Design:
    """The same for all fits of a search."""
    return _Design(choices, losses, start)


def _compute_roots(encoding: Encoding, alone: Array) -> Array:
    """Square roots of the losses; those of single stages spread over the steps they are made of."""
    whole = np.sqrt(np.maximum(encoding.closure @ alone, 0.0))
    roots = compute_marginal_values(dict(zip(encoding.columns, whole.tolist(), strict=True)))
    return np.array(list(roots.values()))


class _Fit(NamedTuple):
    error: float  # mean absolute, leave-one-out
    dual: Array


def _fit_ridge(kernel: Array, wanted: Array) -> _Fit:
    """Kernel ridge regression with the penalty that leave-one-out likes best."""
    fits = []
    for penalty in PENALTIES:
        inverse = np.linalg.inv(kernel + penalty * np.eye(len(wanted)))
        dual = inverse @ wanted
        fits.append(_Fit(float(np.abs(dual / np.diag(inverse)).mean()), dual))
    return min(fits, key=lambda fit: fit.error)


def _find_neighbourhood(some: Array, others: Array) -> Array:
    distance = (some**2).sum(1)[:, None] + (others**2).sum(1)[None, :] - 2 * (some @ others.T)
    return np.asarray(ALIKE * np.exp(-distance / REACH))


def _name_class(one: Choice, other: Choice) -> tuple[str, str, int]:
    """The class of pairs that share a term: kinds, whether parts are left out or rounded, and distance in depth; of a
    step and a part, which comes first."""
    kinds = sorted((_name_disturbance(one), _name_disturbance(other)))
    if is_cumulative(one) or is_cumulative(other):
        step, part = (one, other) if is_cumulative(one) else (other, one)
        return kinds[0], kinds[1], int(part.layer >= step.layer)
    return kinds[0], kinds[1], min(abs(one.layer - other.layer), FAR)


def _name_disturbance(choice: Choice) -> str:
    """The kind of unit and, where levels are no amounts of it, their axis: rounding is no smaller cut."""
    axes = [KINDS[name].axis for name in list_kinds(choice) if not KINDS[name].graded]
    return ":".join([str(choice.unit.kind), *axes])
