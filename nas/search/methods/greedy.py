"""Greedy removal with re-scoring: every round tries every remaining part on the already pruned model."""

from dataclasses import dataclass

from nas.search.methods.method import RemovalOrder, compute_loss, is_possible, list_droppable
from nas.search.problem import Problem
from search_spaces.kinds import Kind
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

    def find_removal_order(self, problem: Problem) -> RemovalOrder | None:
        """Blocks in the order of their removal."""
        blocks = list_droppable(problem.space, (Kind.BLOCK,))
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

    def find_removal_order(self, problem: Problem) -> RemovalOrder | None:
        """Attentions and MLPs in the order of their removal."""
        return remove_greedily(problem, list_droppable(problem.space, problem.space.parts), self.per_ms)


def remove_greedily(problem: Problem, units: RemovalOrder, per_ms: bool) -> RemovalOrder | None:
    """Remove one unit a round until the budget is met; None when they run out before."""
    order: list[Unit] = []
    while not problem.is_feasible(problem.space.decode(set(order))):
        rest = [unit for unit in units if unit not in order and is_possible(problem.space, {*order, unit})]
        if not rest:
            return None
        # Deepest first, so that each resumes from the states of the one before it.
        rest.sort(reverse=True)
        problem.prefetch([(problem.space.decode({*order, unit}), problem.fidelity) for unit in rest])
        scores = {unit: _score(problem, order, unit, per_ms) for unit in rest}
        order.append(min(rest, key=lambda unit: (scores[unit], unit)))
    return tuple(order)


def _score(problem: Problem, order: list[Unit], unit: Unit, per_ms: bool) -> float:
    loss = compute_loss(problem, {*order, unit})
    if not per_ms:
        return loss
    before, after = (problem.predict_ms(problem.space.decode(set(units))) for units in (order, [*order, unit]))
    return (loss - compute_loss(problem, set(order))) / max(before - after, 1e-9)
