"""The ONNX file of any architecture, made in milliseconds by editing the parent's exported graph.

The exporter notes for every node which module it came from. How each kind of unit changes the graph is in
`nas.export.kinds`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nas.export.external_weights import count_bytes, load_in_place, take_in
from nas.export.graph_draft import Addition, GraphDraft, name_module
from nas.export.kinds import EDITS
from nas.export.module_graph import find_origins
from nas.export.onnx_export import LARGEST_INLINE
from nas.export.shared_weights import SharedWeights
from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.contribution import BlockAnatomy
from pruning.compensation.calibration_pass import Adjusted
from pruning.kinds.linear_part import describe_stand_in
from search_spaces.architecture import Architecture
from search_spaces.errors import ExportError
from search_spaces.kinds import Kind
from search_spaces.unit import Choice, list_kinds


@dataclass(frozen=True)
class ParentGraph:
    """The parent's exported file, read once; `derive` writes variants of it.

    Attributes:
        model: the parent.
        exported: what the model that was exported differs from the parent in, and no edit makes.
        finished: gives the form in which an edited graph is kept or written.

    Example:
        >>> graph = ParentGraph.read(Path("parent.onnx"), anatomy, model)
        >>> path = graph.derive(Architecture.parent(anatomy.depth).drop(Unit(1, Kind.MLP)), Path("pruned.onnx"))
    """

    proto: Any
    anatomy: Anatomy
    model: Any
    exported: Architecture
    finished: Callable[[Any], Any] = lambda proto: proto
    _additions: dict[tuple[int, Kind], Addition] = field(default_factory=dict)
    _origins: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, anatomy: Anatomy, model: Any, exported: Architecture | None = None) -> "ParentGraph":
        """Read the exported file of a parent, or of what of it is `exported`.

        Raises:
            ExportError: when the graph does not say where a unit's contribution is added.
        """
        import onnx

        return cls.of_proto(onnx.load(str(path)), anatomy, model, exported)

    @classmethod
    def read_in_place(cls, path: Path, anatomy: Anatomy, model: Any) -> "ParentGraph":
        """The same, of a file that stays where it is: weights in a second file are only read when they are written.

        Raises:
            ExportError: as `read`.
        """
        return cls.of_proto(load_in_place(path), anatomy, model)

    @classmethod
    def of_proto(cls, proto: Any, anatomy: Anatomy, model: Any, exported: Architecture | None = None) -> "ParentGraph":
        """The graph of a parent, or of what of it is `exported`.

        Raises:
            ExportError: as `read`.
        """
        exported = exported or Architecture.parent(anatomy.depth)
        origins = find_origins(proto.graph)
        additions = {
            (block.index, kind): _find_addition(
                proto.graph, origins, name_module(anatomy, block.index, _find_last(block, kind, exported))
            )
            for block in anatomy.blocks
            for kind in block.parts
            if not block.unread
        }
        return cls(proto, anatomy, model, exported, _additions=additions, _origins=origins)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all initializers of the parent: no variant has more."""
        return _count_weight_bytes(self.proto)

    def find_exported(self, architecture: Architecture) -> Architecture:
        """What of an architecture must have been exported, as no edit of this graph makes it: its export key."""
        exported = (edit.find_exported(self._intact, architecture) for edit in EDITS.values())
        choices = frozenset[Choice]().union(*exported)
        return Architecture(architecture.depth, choices, architecture.reduction)

    def get_graph(self, architecture: Architecture) -> "ParentGraph":
        """This graph, if it was exported with what no edit makes.

        Raises:
            ExportError: it was not.
        """
        wanted = self.find_exported(architecture)
        if wanted != self.exported:
            raise ExportError(
                f"{describe_choices(wanted)}: the graph was exported with {describe_choices(self.exported)}, and no "
                "edit makes the one of the other; export the parent anew"
            )
        return self

    def edit(self, architecture: Architecture, adjusted: Sequence[Adjusted] = ()) -> Any:
        """The graph's proto of `architecture`; of one that drops everything, the bare stem's.

        A dropped attention takes its past inputs and present outputs with it; the other inputs stay.

        Args:
            adjusted: projections with new weights.

        Raises:
            ExportError: the graph was exported with something else, or does not show where such a projection is.
        """
        self.get_graph(architecture)
        proto = type(self.proto)()
        proto.CopyFrom(self.proto)
        graph = self._build_draft(proto)
        graph.adjusted |= {(each.layer, each.path): each.module for each in adjusted}
        steps = [
            (kind, choice) for choice in architecture.choices - self.exported.choices for kind in list_kinds(choice)
        ]
        last = {kind for kind, edit in EDITS.items() if edit.places_weights}
        for kind, choice in sorted(step for step in steps if step[0] not in last):
            EDITS[kind].apply(graph, choice)
        for each in adjusted:
            if not graph.put_projection(each.layer, each.path, each.module):
                name = name_module(self.anatomy, each.layer, each.path)
                raise ExportError(f"the exported graph does not show the weights of {name}; export the model anew")
        for kind, choice in sorted(step for step in steps if step[0] in last):
            EDITS[kind].apply(graph, choice)
        graph.finish()
        return self.finished(proto)

    def derive(self, architecture: Architecture, path: Path, adjusted: Sequence[Adjusted] = ()) -> Path:
        """Write the file of `architecture`. Weights over 1.8 GB go into a second file beside it.

        Args:
            adjusted: projections with new weights.

        Raises:
            ExportError: as `edit`.
        """
        _save(self.edit(architecture, adjusted), path)
        return path

    @cached_property
    def _intact(self) -> GraphDraft:
        """To read from only."""
        return self._build_draft(self.proto)

    def rewrite(self, finished: Callable[[Any], Any]) -> "ParentGraph":
        """This graph and all edits of it in another form, such as one whose weights are elsewhere."""
        return replace(self, proto=finished(self.proto), finished=lambda proto: finished(self.finished(proto)))

    def _build_draft(self, proto: Any) -> GraphDraft:
        return GraphDraft(proto, self._origins, self.anatomy, self.model, self._additions)


def _find_last(block: BlockAnatomy, kind: Kind, exported: Architecture) -> str:
    """The module of a block whose output reaches the stream for a part, or for what stands in its place."""
    part = block.get_contribution(kind)
    return part.last if exported.runs(block.index, kind) else describe_stand_in(part).last


def _find_addition(graph: Any, origins: dict[str, tuple[str, ...]], module: str) -> Addition:
    """The addition that takes a module's output into the residual stream."""
    inside = set(origins.get(module, ()))
    written = {name for node in graph.node if node.output[0] in inside for name in node.output if name}
    for node in graph.node:
        contributions = [name for name in node.input if name in written]
        if node.op_type == "Add" and len(contributions) == 1 and node.output[0] not in inside:
            stream = next(name for name in node.input if name != contributions[0])
            return Addition(stream, contributions[0], node.output[0])
    raise ExportError(f"the exported graph does not show where {module} is added to the residual stream")


def describe_choices(architecture: Architecture) -> str:
    """Everything that is chosen, in words."""
    return ", ".join(map(str, sorted(architecture.choices))) or "nothing"


def _count_weight_bytes(proto: Any) -> int:
    return sum(map(count_bytes, proto.graph.initializer))


def _save(proto: Any, path: Path) -> None:
    import onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.data")
    beside.unlink(missing_ok=True)  # it is appended to
    if _count_weight_bytes(proto) > LARGEST_INLINE:
        proto = SharedWeights(beside.name, folder=path.parent).move(proto)
    else:
        take_in(proto)
    onnx.save(proto, str(path))
