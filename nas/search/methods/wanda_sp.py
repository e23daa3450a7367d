"""Widths and heads cut alike in all layers."""

from bisect import bisect_left
from dataclasses import dataclass

from nas.search.problem import Problem
from pruning.analysis.criteria import ActivationNorm
from search_spaces.architecture import Architecture
from search_spaces.level import THOUSAND


@dataclass(frozen=True)
class WandaSp:
    """Wanda-sp, the structured form of Wanda (Sun et al., 2024) that FLAP (An et al., 2024) is compared with.

    Inputs count by the sum of the magnitudes of their columns times the norm of their activations, heads by the sum
    over theirs. The same share of every layer goes: here the smallest in thousandths that meets the latency. Published
    without compensation; least squares for what stays are `--compensate refit`.
    """

    name: str = "wanda-sp"
    criterion: str = ActivationNorm.name

    def choose_architecture(self, problem: Problem) -> Architecture | None:
        """With the smallest share that meets the budget; None where the narrowest of everything does not."""
        gone = range(1, THOUSAND)
        first = bisect_left(gone, True, key=lambda share: problem.is_feasible(_cut(problem, share)))
        return None if first == len(gone) else _cut(problem, gone[first])


def _cut(problem: Problem, gone: int) -> Architecture:
    """What is left without so many thousandths of the groups of every part."""
    kept = (each.keep(round(each.groups * (THOUSAND - gone) / THOUSAND)) for each in problem.channels)
    return problem.space.decode(choice for choice in kept if choice is not None)
