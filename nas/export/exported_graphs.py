"""The ONNX file of any architecture, also where no edit of the parent's graph makes it, as with fewer tokens.

What no edit makes is an architecture's export key: the parent is exported once for each key, and edited from there.
What ranks tokens takes only weights from an attention, so it stays where that attention is dropped: the edited graph
and the pruned model are the same function.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nas.export.graph_editing import ParentGraph
from pruning.anatomy.anatomy import Anatomy
from pruning.compensation.calibration_pass import Adjusted
from search_spaces.architecture import Architecture


class Graphs(Protocol):
    """What files of a parent's architectures are derived from.

    Example:
        >>> graphs: Graphs = ParentGraph.read(Path("parent.onnx"), anatomy, model)
        >>> path = graphs.get_graph(architecture).derive(architecture, Path("pruned.onnx"))
    """

    @property
    def anatomy(self) -> Anatomy:
        """The parent's."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights of the parent."""

    def find_exported(self, architecture: Architecture) -> Architecture:
        """What of an architecture no edit of the parent's graph makes, so that it must be exported: its export key."""

    def get_graph(self, architecture: Architecture) -> ParentGraph:
        """The graph that was exported with the architecture's key and no other change.

        Raises:
            ExportError: there is none, or it cannot be made.
        """


@dataclass
class ExportedGraphs:
    """The parent's graph and those of other export keys, each made when it is asked for.

    Attributes:
        make: the graph of the architecture that is a key.

    Example:
        >>> graphs = ParentExport(parent, progress).graphs
        >>> path = graphs.derive(architecture, Path("pruned.onnx"))
    """

    parent: ParentGraph
    make: Callable[[Architecture], ParentGraph]
    _latest: dict[Architecture, ParentGraph] = field(default_factory=dict)  # one: each holds the weights again

    @property
    def anatomy(self) -> Anatomy:
        """The parent's."""
        return self.parent.anatomy

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights of the parent."""
        return self.parent.weight_bytes

    def find_exported(self, architecture: Architecture) -> Architecture:
        """The export key of an architecture."""
        return self.parent.find_exported(architecture)

    def get_graph(self, architecture: Architecture) -> ParentGraph:
        """The graph that was exported with the architecture's key and no other change.

        Raises:
            ExportError: a model of that key cannot be exported.
        """
        key = self.find_exported(architecture)
        if key == self.parent.exported:
            return self.parent
        if key not in self._latest:
            self._latest.clear()
            self._latest[key] = self.make(key)
        return self._latest[key]

    def derive(self, architecture: Architecture, path: Path, adjusted: Sequence[Adjusted] = ()) -> Path:
        """Write the file of `architecture`.

        Args:
            adjusted: projections with new weights.

        Raises:
            ExportError: a model of its export key cannot be exported, or is not shown where such a projection is.
        """
        return self.get_graph(architecture).derive(architecture, path, adjusted)
