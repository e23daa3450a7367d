"""The ONNX file of any architecture with fewer tokens: one export per token schedule, parts dropped by editing it.

What ranks tokens takes only weights from an attention, so it stays where that attention is dropped: the edited graph
and the pruned model are the same function.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nas.export.graph_editing import ParentGraph, acting_schedule
from pruning.anatomy.anatomy import Anatomy
from search_spaces.architecture import Architecture
from search_spaces.schedule import Schedule


class Graphs(Protocol):
    """What files of a parent's architectures are derived from."""

    @property
    def anatomy(self) -> Anatomy:
        """The parent's."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights of the parent."""

    def of(self, architecture: Architecture) -> ParentGraph:
        """The graph with the architecture's token schedule and all parts.

        Raises:
            ExportError: there is none, or it cannot be made.
        """


@dataclass
class ReducedGraphs:
    """The parent's graph and those of its token schedules, each made when it is asked for.

    Attributes:
        make: the graph of a model that keeps all parts and has this architecture's schedule.
    """

    parent: ParentGraph
    make: Callable[[Architecture], ParentGraph]
    _latest: dict[Schedule, ParentGraph] = field(default_factory=dict)  # one: each holds the weights again

    @property
    def anatomy(self) -> Anatomy:
        """The parent's."""
        return self.parent.anatomy

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights of the parent."""
        return self.parent.weight_bytes

    def of(self, architecture: Architecture) -> ParentGraph:
        """The graph with the architecture's token schedule and all parts.

        Raises:
            ExportError: a model with that schedule cannot be exported.
        """
        schedule = acting_schedule(architecture, self.anatomy)
        if not schedule.stages:
            return self.parent
        if schedule not in self._latest:
            self._latest.clear()
            self._latest[schedule] = self.make(Architecture.parent(architecture.depth).with_tokens(schedule))
        return self._latest[schedule]

    def derive(self, architecture: Architecture, path: Path) -> Path:
        """Write the file of `architecture`.

        Raises:
            ExportError: a model with its token schedule cannot be exported.
        """
        return self.of(architecture).derive(architecture, path)
