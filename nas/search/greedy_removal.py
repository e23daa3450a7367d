"""Conditional re-scoring: down from the parent one unit at a time, each time scored given what is gone already.

Greedy removal by added loss per millisecond is the strongest published method. Here every round scores only the
units that the surrogate expects to be cheapest, and on few items: all candidates see the same ones, so differences are
paired. What was cheaper when it was last scored is scored too, so that the way is seldom another than that of scoring
everything. Levels that lose next to nothing, as eight bits do, are lowered together, and so are small steps that are
about as cheap: their order hardly matters, and scoring each would take longer than all drops.

Candidates that are compensated stand in for a whole block better than for two parts of different blocks, so that a step
may be a block then, however dear its parts are alone.

One descent passes all budgets; its architectures seed the study, and its scores teach the surrogate what units do
together where it matters. A token unit takes those that it implies along; of these steps only those are tried that save
about as much as a part does, and few, since many are nearly the same.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from nas.search.problem import REMOVING, Problem
from nas.search.surrogate import Surrogate
from search_spaces.architecture import Architecture
from search_spaces.level import DROP
from search_spaces.rules import SWALLOWS, is_below
from search_spaces.space import is_empty
from search_spaces.unit import Choice, Unit, is_cumulative, is_structural

WIDTH = (1 / 3, 6)  # parts scored in a round: this share of them, and at least so many
STEPS = 4  # token steps scored in a round
STEP = (0.03, 0.12)  # what one saves, of where the search starts
ALIKE = 1.5  # times what the cheapest step adds to the loss per millisecond: levels that are lowered beside it
NEGLIGIBLE = 1 / 3  # of what the cheapest drop adds to the loss per millisecond


@dataclass
class GreedyRemoval:
    """The greedy removal path, and everything that was scored on it.

    Attributes:
        path: from the parent down, without it.
        scored: architecture to loss on the first rung's items.
        added: choice to what it added to the loss when it was last scored.
    """

    problem: Problem
    library: dict[Choice, float]
    path: list[Architecture] = field(default_factory=list)
    scored: dict[Architecture, float] = field(default_factory=dict)
    added: dict[Choice, float] = field(default_factory=dict)

    def run(self, budget_ms: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Down to a budget, or as far as it goes before `stop` says to."""
        current = self.problem.space.start
        whole = self.problem.predict_ms(current)
        while not self.problem.meets(current, budget_ms) and not stop():
            parts, steps = self._list_below(current)
            if not parts and not steps:
                return
            self.path.extend(self._choose_cheapest(current, parts, steps))
            current = self.path[-1]
            saved_ms = whole - self.problem.predict_ms(current)
            self.problem.on_phase(REMOVING, min(saved_ms, whole - budget_ms), whole - budget_ms)

    def find_first_within_budget(self, budget_ms: float) -> Architecture | None:
        """Where the path first meets a budget, with what still fits restored, last dropped first."""
        path = [self.problem.space.start, *self.path]
        for position, architecture in enumerate(path):
            if self.problem.meets(architecture, budget_ms):
                return self._restore(path[: position + 1], budget_ms)
        return None

    def _list_below(self, current: Architecture) -> tuple[dict[Architecture, Choice], dict[Architecture, Choice]]:
        """What is faster with one part at a lower level, and with one token step more; each with the choice made."""
        ms, faster = self.problem.predict_ms(current), self._list_faster(current)
        mildest = [one for one in faster if is_cumulative(one) or not any(is_below(one, other) for other in faster)]
        parts = {faster[choice]: choice for choice in mildest if is_structural(choice)}
        parts = self._list_without_block(current) | parts if self.problem.removes_blocks else parts
        steps = {faster[choice]: choice for choice in mildest if not is_structural(choice)}
        whole = self.problem.predict_ms(self.problem.space.start)
        saved = {a: ms - self.problem.predict_ms(a) for a in steps}
        handy = {a: choice for a, choice in steps.items() if STEP[0] * whole <= saved[a] <= STEP[1] * whole}
        return parts, handy or steps

    def _list_faster(self, current: Architecture) -> dict[Choice, Architecture]:
        """What may be chosen next, with what it makes of an architecture, where that is predicted to be faster."""
        return self._apply_each(current, (choice for choice in self.problem.space.choices if not current.drops(choice)))

    def _list_without_block(self, current: Architecture) -> dict[Architecture, Choice]:
        """What is left without all parts of a block at once, where the space knows a block by its parts."""
        depth = self.problem.space.depth
        wholes = (Unit(layer, kind).dropped for kind in SWALLOWS for layer in range(depth))
        return {architecture: whole for whole, architecture in self._apply_each(current, wholes).items()}

    def _apply_each(self, current: Architecture, choices: Iterable[Choice]) -> dict[Choice, Architecture]:
        """What each choice makes of an architecture, where the space has that and it is predicted to be faster."""
        space, ms = self.problem.space, self.problem.predict_ms(current)
        found = {choice: space.make_canonical(current.drop(choice)) for choice in choices}
        return {
            choice: architecture
            for choice, architecture in found.items()
            if not is_empty(architecture)
            and space.contains(architecture)
            and self.problem.predict_ms(architecture) < ms
        }

    def _choose_cheapest(
        self, current: Architecture, parts: dict[Architecture, Choice], steps: dict[Architecture, Choice]
    ) -> list[Architecture]:
        """The step of least added loss per millisecond; more of them where several add next to nothing.

        Scored are those that the surrogate expects to be it, and then the parts that would have been cheaper with what
        they added when they were last scored: mostly they add more the more is gone (lazy greedy, Minoux, 1978).
        """
        problem, below = self.problem, parts | steps
        start = problem.start_loss()
        surrogate = Surrogate.fit(problem.space.choices, self.library, list(self.scored.items()), start)
        expected = dict(zip(below, surrogate.predict(list(below)), strict=True))
        before_ms, before = problem.predict_ms(current), self.scored.get(current, start)

        def rate(architecture: Architecture, loss: float) -> tuple[float, str]:
            return (loss - before) / (before_ms - problem.predict_ms(architecture)), architecture.digest

        def select_promising(some: Iterable[Architecture], width: int) -> list[Architecture]:
            return sorted(some, key=lambda a: rate(a, expected[a]))[:width]

        tried = select_promising(parts, self._width) + select_promising(steps, STEPS if parts else WIDTH[1])
        self._score(current, {a: below[a] for a in tried})
        best = min(rate(a, self.scored[a]) for a in tried)
        overlooked = {a: c for a, c in parts.items() if a not in tried and rate(a, before + self._get_added(c)) < best}
        self._score(current, overlooked)
        ranked = sorted([*tried, *overlooked], key=lambda a: rate(a, self.scored[a]))
        rates = {below[a]: rate(a, self.scored[a])[0] for a in ranked}
        saved = {below[a]: before_ms - problem.predict_ms(a) for a in ranked}
        return self._lower_together(current, self._select_small_steps(rates, saved)) or ranked[:1]

    def _select_small_steps(self, rates: dict[Choice, float], saved: dict[Choice, float]) -> list[Choice]:
        """Levels that are lowered together: all that add next to nothing, and where the cheapest step is a small one,
        as many nearly as cheap ones as make a step of the usual size.

        Args:
            rates: what each step adds to the loss per millisecond, the cheapest first.
            saved: milliseconds.
        """
        size, cheapest = STEP[0] * self.problem.predict_ms(self.problem.space.start), next(iter(rates))
        small = is_structural(cheapest) and cheapest.level != DROP
        alike, together = max(ALIKE * rates[cheapest], self._negligible_rate), dict[Unit, Choice]()
        for choice, rate in rates.items():
            if not is_structural(choice) or choice.level == DROP:
                continue
            missing = sum(saved[each] for each in together.values()) < size
            if rate < self._negligible_rate or (small and missing and rate <= alike):
                together.setdefault(choice.unit, choice)
        return list(together.values())

    def _lower_together(self, current: Architecture, lowered: list[Choice]) -> list[Architecture]:
        """One after another with these choices made; nothing where they are fewer than two."""
        if len(lowered) < 2:
            return []
        steps = list[Architecture]()
        for choice in lowered:
            steps.append(self.problem.space.make_canonical((steps or [current])[-1].drop(choice)))
        self.scored[steps[-1]] = self.problem.evaluate(steps[-1], self.problem.rungs[0]).loss
        return steps

    @cached_property
    def _negligible_rate(self) -> float:
        """Below this, a step's loss per millisecond is negligible."""
        saved = self.problem.estimate_saved_ms()
        drops = [each for each in self.problem.space.structure if each.level == DROP and saved[each] > 0]
        return NEGLIGIBLE * min((self.library[each] / saved[each] for each in drops), default=0.0)

    def _score(self, current: Architecture, below: dict[Architecture, Choice]) -> None:
        """Score steps on the first rung; the deepest change first, so that each resumes from the states of the last."""
        tried = sorted(below, key=lambda a: _rank_change(current, a), reverse=True)
        self.problem.prefetch([(architecture, self.problem.rungs[0]) for architecture in tried])
        before = self.scored.get(current, self.problem.start_loss())
        for architecture in tried:
            self.scored[architecture] = self.problem.evaluate(architecture, self.problem.rungs[0]).loss
            self.added[below[architecture]] = self.scored[architecture] - before

    def _get_added(self, choice: Choice) -> float:
        """What a choice added to the loss when it was last scored, on the way here or alone."""
        return self.added.get(choice, self.library.get(choice, 0.0))

    @property
    def _width(self) -> int:
        share, min_width = WIDTH
        return max(min_width, round(share * len({choice.unit for choice in self.problem.space.structure})))

    def _restore(self, path: list[Architecture], budget_ms: float) -> Architecture:
        space = self.problem.space
        dropped = _list_made(space.choices, path[-1])
        for earlier, later in reversed(list(itertools.pairwise(path))):
            step = _list_made(space.choices, later) - _list_made(space.choices, earlier)
            if self.problem.meets(space.decode(dropped - step), budget_ms):
                dropped -= step
        return self._restore_tokens(dropped, budget_ms)

    def _restore_tokens(self, dropped: set[Choice], budget_ms: float) -> Architecture:
        """With steps taken back that no other implies while the budget is met, dearest in loss first."""
        space = self.problem.space
        while True:
            outer = [each for each in space.decode(dropped).choices if each in dropped and is_cumulative(each)]
            fits = [each for each in outer if self.problem.meets(space.decode(dropped - {each}), budget_ms)]
            if not fits:
                return space.decode(dropped)
            dropped = dropped - {max(fits, key=lambda each: (self.library[each], each))}


def _list_made(choices: tuple[Choice, ...], architecture: Architecture) -> set[Choice]:
    return {choice for choice in choices if architecture.drops(choice)}


def _rank_change(earlier: Architecture, later: Architecture) -> tuple[int, str]:
    """The depth of what was dropped; the digest decides between equals."""
    return max((choice.layer for choice in later.choices - earlier.choices), default=0), later.digest
