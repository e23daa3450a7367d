"""Equal steps down to a last share of tokens, in the number and from the block that lose least."""

from dataclasses import dataclass
from functools import partial

from nas.search.methods.schedules import find_max_tokens
from nas.search.problem import Problem
from search_spaces.architecture import Architecture
from search_spaces.level import THOUSAND
from search_spaces.schedule import Schedule, Stage

STEPS = (1, 2, 3, 4)
STARTS = 6  # first blocks that are tried, spread over the depth


@dataclass(frozen=True)
class EqualSteps:
    """The token staircase of a latency-aware pruner: as many tokens go at each of some evenly spaced blocks.

    After POMT (WACV 2025), which chooses how many tokens to keep from measured latency and tries few schedules. Here
    for every first block and number of steps the most tokens that meet the budget are kept, and the loss decides.
    """

    name: str = "equal-steps"

    def choose_architecture(self, problem: Problem) -> Architecture | None:
        """The parent with the best of those schedules; None where none meets the budget."""
        depth, fitting = problem.space.depth, []
        for first in sorted({1 + index * (depth - 1) // STARTS for index in range(STARTS)} & set(range(1, depth))):
            for count in (count for count in STEPS if first + count <= depth):
                architecture = find_max_tokens(problem, partial(_build_schedule, problem, first, count))
                fitting += [] if architecture is None else [architecture]
        losses = {each: problem.evaluate(each, problem.fidelity).loss for each in dict.fromkeys(fitting)}
        return min(losses, key=lambda each: (losses[each], each.digest), default=None)


def _build_schedule(problem: Problem, first: int, count: int, last: int) -> Schedule:
    """`count` stages from block `first` on that leave `last` thousandths in equal steps."""
    depth = problem.space.depth
    blocks = [first + index * (depth - first) // count for index in range(count)]
    left = [THOUSAND - (THOUSAND - last) * (index + 1) // count for index in range(count)]
    return Schedule(tuple(map(Stage, blocks, left)), problem.reduction)
