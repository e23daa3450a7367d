"""Tokens that are dropped: parts stay as they are and work on fewer."""

from dataclasses import replace

from latency_models.kinds.cost import Cost
from latency_models.shape import ModelShape
from latency_models.workload import Phase, Workload
from search_spaces.schedule import Stage


class _Reduced(Cost):
    def reduce(self, shape: ModelShape, workload: Workload, value: int) -> Workload:
        """Of each sequence's droppable tokens only `value` thousandths; all of it where at most one may be dropped."""
        length = workload.past if workload.phase is Phase.DECODE else workload.sequence
        droppable = shape.count_droppable(length)
        if droppable <= 1:
            return workload
        left = length - droppable + int(Stage(0, value).count_kept(droppable))
        return replace(workload, past=left) if workload.phase is Phase.DECODE else replace(workload, sequence=left)


COST = _Reduced()
