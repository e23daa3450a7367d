"""Conditional re-scoring: down from the parent one unit at a time, each time scored given what is gone already.

Greedy removal by added loss per millisecond is the strongest of the published ways. Here every round scores only the
units that the surrogate expects to be cheapest, and on few items: all candidates see the same ones, so differences are
paired. One descent passes all budgets; its architectures seed the study, and its scores teach the surrogate what
units do together where it matters.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from nas.search.problem import Problem
from nas.search.surrogate import Surrogate
from search_spaces.architecture import Architecture
from search_spaces.space import empty
from search_spaces.unit import Unit

WIDTH = (1 / 3, 6)  # units scored in a round: this share of them, and at least so many


@dataclass
class Descent:
    """The way down, and everything that was scored on it: architecture to loss on the first rung's items."""

    problem: Problem
    library: dict[Unit, float]
    path: list[Architecture] = field(default_factory=list)
    scored: dict[Architecture, float] = field(default_factory=dict)

    def run(self, budget_ms: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Down to a budget, or as far as it goes before `stop` says to."""
        space = self.problem.space
        current = space.parent
        while not self.problem.meets(current, budget_ms) and not stop():
            gone, ms = _gone(space.units, current), self.problem.ms(current)
            below = [space.decode({*gone, unit}) for unit in space.units if unit not in gone]
            below = [a for a in below if not empty(a) and space.contains(a) and self.problem.ms(a) < ms]
            if not below:
                return
            current = self._cheapest(current, below)
            self.path.append(current)
            self.problem.on_trial(0, f"on the way down: {self.problem.ms(current):.2f} ms")

    def first_within(self, budget_ms: float) -> Architecture | None:
        """Where the path first meets a budget, with what still fits restored, last dropped first."""
        way = [self.problem.space.parent, *self.path]
        for place, architecture in enumerate(way):
            if self.problem.meets(architecture, budget_ms):
                return self._restored(way[: place + 1], budget_ms)
        return None

    def _cheapest(self, current: Architecture, below: list[Architecture]) -> Architecture:
        """The step of least added loss per millisecond, among those that the surrogate expects to be."""
        problem = self.problem
        surrogate = Surrogate.fit(problem.space.units, self.library, list(self.scored.items()))
        expected = dict(zip(below, surrogate.expected(below), strict=True))
        before_ms, before = problem.ms(current), self.scored.get(current, 0.0)

        def rate(architecture: Architecture, loss: float) -> tuple[float, str]:
            return (loss - before) / (before_ms - problem.ms(architecture)), architecture.digest

        tried = sorted(below, key=lambda a: rate(a, expected[a]))[: self._width]
        # Deepest change first, so that each resumes from the states of the one before it.
        for architecture in sorted(tried, key=lambda a: _changed(current, a), reverse=True):
            self.scored[architecture] = problem.evaluate(architecture, problem.rungs[0]).loss
        return min(tried, key=lambda a: rate(a, self.scored[a]))

    @property
    def _width(self) -> int:
        share, least = WIDTH
        return max(least, round(share * len(self.problem.space.units)))

    def _restored(self, way: list[Architecture], budget_ms: float) -> Architecture:
        space = self.problem.space
        gone = _gone(space.units, way[-1])
        for earlier, later in reversed(list(itertools.pairwise(way))):
            step = _gone(space.units, later) - _gone(space.units, earlier)
            if self.problem.meets(space.decode(gone - step), budget_ms):
                gone -= step
        return space.decode(gone)


def _gone(units: tuple[Unit, ...], architecture: Architecture) -> set[Unit]:
    return {unit for unit in units if architecture.drops(unit)}


def _changed(earlier: Architecture, later: Architecture) -> tuple[int, str]:
    """The depth of what was dropped; the digest decides between equals."""
    return max((unit.layer for unit in later.dropped - earlier.dropped), default=0), later.digest
