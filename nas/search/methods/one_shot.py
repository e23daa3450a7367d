"""One-shot methods: units in a fixed order, dropped until the budget is met."""

import random
from dataclasses import dataclass

from nas.search.library import score_library
from nas.search.methods.method import RemovalOrder, find_shortest_feasible, list_droppable
from nas.search.problem import Problem
from search_spaces.kinds import PARTS, Kind
from search_spaces.unit import Unit


@dataclass(frozen=True)
class Cosine:
    """LLM-Drop (He et al., 2024): the most redundant first, by cosine similarity.

    Joint: attentions and MLPs in one order of raw similarities, as published.
    """

    name: str
    kinds: tuple[Kind, ...]

    def find_removal_order(self, problem: Problem) -> RemovalOrder | None:
        """Along the ranking of the redundancy analysis."""
        able = list_droppable(problem.space, self.kinds)
        return find_shortest_feasible(problem, tuple(u for u in problem.redundancy.rank(*self.kinds) if u in able))


@dataclass(frozen=True)
class ReverseOrder:
    """The deepest first: LLM-Drop's control, "reverse order"."""

    name: str = "reverse"

    def find_removal_order(self, problem: Problem) -> RemovalOrder | None:
        """Attentions and MLPs from the last to the first."""
        units = list_droppable(problem.space, _choose_kinds(problem))
        return find_shortest_feasible(problem, tuple(sorted(units, key=lambda u: (-u.layer, u.kind is Kind.ATTENTION))))


@dataclass(frozen=True)
class RandomOrder:
    """A random order, the same for a seed: the control without which no ranking means anything."""

    name: str = "random"

    def find_removal_order(self, problem: Problem) -> RemovalOrder | None:
        """Attentions and MLPs shuffled."""
        units = list_droppable(problem.space, _choose_kinds(problem))
        return find_shortest_feasible(problem, tuple(random.Random(problem.seed).sample(units, len(units))))


@dataclass(frozen=True)
class Sprint:
    """SPRINT's score (Park et al., 2025) without its refit: sensitivity per measured millisecond, least first."""

    name: str = "sprint"

    def find_removal_order(self, problem: Problem) -> RemovalOrder | None:
        """In the order of loss alone over milliseconds saved."""
        losses, saves = score_library(problem, problem.fidelity), problem.estimate_saved_ms()
        units = list_droppable(problem.space, _choose_kinds(problem))

        def compute_sensitivity(unit: Unit) -> float:
            return losses[unit.dropped] / max(saves[unit.dropped], 1e-9)

        return find_shortest_feasible(problem, tuple(sorted(units, key=lambda u: (compute_sensitivity(u), u))))


def _choose_kinds(problem: Problem) -> tuple[Kind, ...]:
    """Attentions and MLPs; blocks where the space has nothing else."""
    kinds = {choice.unit.kind for choice in problem.space.choices}
    return tuple(kind for kind in PARTS if kind in kinds) or (Kind.BLOCK,)
