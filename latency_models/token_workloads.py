"""What a token schedule leaves of a workload: to each block, and at each stage.

Before the cache is filled (`forward`, `prefill`) a block works on fewer new tokens; in `decode` the one new token meets
a past from which the prompt's dropped tokens are missing.
"""

from dataclasses import dataclass, replace

from latency_models.shape import ModelShape
from latency_models.workload import Phase, Workload
from search_spaces.architecture import Architecture
from search_spaces.kinds import Kind
from search_spaces.schedule import Stage


@dataclass(frozen=True)
class Step:
    """A stage at work: before `block`, what that block would have seen and what it sees; `decode` has none."""

    block: int
    before: Workload
    after: Workload


def reduced(shape: ModelShape, workload: Workload, stage: Stage) -> Workload:
    """The workload that is left when of each sequence's droppable tokens only the stage's share stays.

    One droppable token or none: all of it.
    """
    length = workload.past if workload.phase is Phase.DECODE else workload.sequence
    droppable = shape.droppable_of(length)
    if droppable <= 1:
        return workload
    left = length - droppable + int(stage.kept(droppable))
    return replace(workload, past=left) if workload.phase is Phase.DECODE else replace(workload, sequence=left)


def block_workloads(shape: ModelShape, architecture: Architecture, workload: Workload) -> tuple[Workload, ...]:
    """For every block of the parent, kept or not, what it works on."""
    begins = {stage.block: stage for stage in architecture.tokens.stages}
    seen, found = workload, []
    for block in range(architecture.depth):
        seen = reduced(shape, workload, begins[block]) if block in begins else seen
        found.append(seen)
    return tuple(found)


def steps(shape: ModelShape, architecture: Architecture, workload: Workload) -> list[Step]:
    """The stages that do something: each acts at the next block of which anything is kept, several there at once."""
    if workload.phase is Phase.DECODE or not architecture.tokens.stages:
        return []
    kept = [
        block
        for block in range(architecture.depth)
        if architecture.keeps(block, Kind.ATTENTION) or architecture.keeps(block, Kind.MLP)
    ]
    seen, before, found = block_workloads(shape, architecture, workload), workload, []
    for block in kept:
        if seen[block] != before:
            found.append(Step(block, before, seen[block]))
        before = seen[block]
    return found
