"""What a token schedule leaves of a workload: to each block, and at each stage.

Before the cache is filled (`forward`, `prefill`) a block works on fewer new tokens; in `decode` the one new token meets
a past from which the prompt's dropped tokens are missing.
"""

from dataclasses import dataclass

from latency_models.kinds import find_costs
from latency_models.shape import ModelShape
from latency_models.workload import Phase, Workload
from search_spaces.architecture import Architecture
from search_spaces.kinds import PARTS


@dataclass(frozen=True)
class Step:
    """A stage at work: before `block`, what that block would have seen and what it sees; `decode` has none."""

    block: int
    before: Workload
    after: Workload


def list_block_workloads(shape: ModelShape, architecture: Architecture, workload: Workload) -> tuple[Workload, ...]:
    """For every block of the parent, kept or not, what it works on."""
    if architecture.reduction is None:
        return (workload,) * architecture.depth
    begins: dict[int, Workload] = {}
    for choice in architecture.choices:
        for cost, value in find_costs(choice.kind, choice.level):
            left = cost.reduce(shape, workload, value)
            begins |= {} if left is None else {choice.layer: left}
    seen, workloads = workload, []
    for block in range(architecture.depth):
        seen = begins.get(block, seen)
        workloads.append(seen)
    return tuple(workloads)


def list_steps(shape: ModelShape, architecture: Architecture, workload: Workload) -> list[Step]:
    """The stages that do something: each acts at the next block of which anything is kept, several there at once."""
    if workload.phase is Phase.DECODE or not architecture.tokens.stages:
        return []
    kept = [block for block in range(architecture.depth) if any(architecture.keeps(block, kind) for kind in PARTS)]
    seen, before, steps = list_block_workloads(shape, architecture, workload), workload, []
    for block in kept:
        if seen[block] != before:
            steps.append(Step(block, before, seen[block]))
        before = seen[block]
    return steps
