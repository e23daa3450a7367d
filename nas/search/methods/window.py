"""One contiguous window of blocks."""

from dataclasses import dataclass

from nas.search.methods.method import RemovalOrder
from nas.search.problem import Problem
from search_spaces.kinds import Kind
from search_spaces.unit import Unit


@dataclass(frozen=True)
class Window:
    """The window whose input and output are most alike ("The Unreasonable Ineffectiveness of the Deeper Layers").

    Gromov et al. (2024) compare the last token's angular distance; here, as in the redundancy report, all tokens
    count. The shortest window that meets the budget is taken.
    """

    name: str = "window"

    def find_removal_order(self, problem: Problem) -> RemovalOrder | None:
        """The blocks of the window, deepest first."""
        for length in range(1, problem.space.depth):
            chosen = tuple(Unit(layer, Kind.BLOCK) for layer in problem.redundancy.find_best_window(length))
            architecture = problem.space.decode(set(chosen))
            if not problem.space.contains(architecture):
                return None
            if problem.is_feasible(architecture):
                return tuple(reversed(chosen))
        return None
