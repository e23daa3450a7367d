"""Parts and tokens together by additive divergence under a budget of arithmetic."""

from dataclasses import dataclass

from latency_models.marginal import compute_marginal_values
from nas.search.library import score_library
from nas.search.problem import Problem
from nas.search.solve import solve
from search_spaces.architecture import Architecture

FINEST = 0.01  # of the parent's arithmetic: how finely the budget is lowered


@dataclass(frozen=True)
class Additive:
    """DOP (arXiv 2507.02909): each operation's output divergence alone, summed, least for so many operations.

    Its budget is arithmetic, not time: it is lowered until the answer meets the latency. The knapsack is solved
    exactly; parts and steps of token reduction are the operations, of the space as it is.
    """

    name: str = "dop"

    def choose_architecture(self, problem: Problem) -> Architecture | None:
        """The first answer that meets the budget; None where none does."""
        space, flops = problem.space, problem.flops or problem.predict_ms
        whole, losses = flops(space.start), score_library(problem, problem.fidelity)
        alone = {each: whole - flops(space.make_canonical(space.start.drop(each))) for each in space.choices}
        saves, tried = {choice: value / whole for choice, value in compute_marginal_values(alone).items()}, 0.0
        while tried < 1:
            tried += FINEST
            answers = solve(space, losses, saves, tried, limits=problem.limits)
            if not answers:
                return None
            if problem.is_feasible(answers[0]):
                return answers[0]
        return None
