"""Greedy removal with re-scoring: every round tries every remaining part on the already pruned model."""

from dataclasses import dataclass

from nas.search.methods.method import Trail, droppable, goes_on, loss_of
from nas.search.problem import Problem
from search_spaces.kinds import PARTS, Kind
from search_spaces.unit import Unit


@dataclass(frozen=True)
class Sleb:
    """SLEB (Song et al., 2024): blocks but the first and the last, the one whose removal hurts least each round.

    `per_ms`: by added loss per millisecond saved instead of by loss.
    """

    per_ms: bool

    @property
    def name(self) -> str:
        """With the criterion where it is not the published one."""
        return "sleb-per-ms" if self.per_ms else "sleb"

    def trail(self, problem: Problem) -> Trail | None:
        """Blocks in the order of their removal."""
        blocks = droppable(problem.space, (Kind.BLOCK,))
        inner = tuple(unit for unit in blocks if 0 < unit.layer < problem.space.depth - 1)
        return remove_greedily(problem, inner, self.per_ms)


@dataclass(frozen=True)
class FinerCut:
    """FinerCut (Zhang et al., 2024): attentions and MLPs each for itself, otherwise as SLEB; no layer is protected."""

    per_ms: bool

    @property
    def name(self) -> str:
        """With the criterion where it is not the published one."""
        return "finercut-per-ms" if self.per_ms else "finercut"

    def trail(self, problem: Problem) -> Trail | None:
        """Attentions and MLPs in the order of their removal."""
        return remove_greedily(problem, droppable(problem.space, PARTS), self.per_ms)


def remove_greedily(problem: Problem, units: Trail, per_ms: bool) -> Trail | None:
    """Remove one unit a round until the budget is met; None when they run out before."""
    trail: list[Unit] = []
    while not problem.feasible(problem.space.decode(set(trail))):
        rest = [unit for unit in units if unit not in trail and goes_on(problem.space, {*trail, unit})]
        if not rest:
            return None
        # Deepest first, so that each resumes from the states of the one before it.
        rest.sort(reverse=True)
        problem.ahead([(problem.space.decode({*trail, unit}), problem.fidelity) for unit in rest])
        scores = {unit: _score(problem, trail, unit, per_ms) for unit in rest}
        trail.append(min(rest, key=lambda unit: (scores[unit], unit)))
    return tuple(trail)


def _score(problem: Problem, trail: list[Unit], unit: Unit, per_ms: bool) -> float:
    loss = loss_of(problem, {*trail, unit})
    if not per_ms:
        return loss
    before, after = (problem.ms(problem.space.decode(set(units))) for units in (trail, [*trail, unit]))
    return (loss - loss_of(problem, set(trail))) / max(before - after, 1e-9)
