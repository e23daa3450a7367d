"""The ONNX file of any architecture, made in milliseconds by editing the parent's exported graph.

The exporter notes for every node which module it came from. A unit is dropped by letting the addition that takes
its contribution into the residual stream pass the other operand through; what nobody reads any more is removed.
"""

import ast
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.export.cached_export import cache_names, is_past
from nas.export.onnx_export import LARGEST_INLINE, SCOPES
from pruning.anatomy.anatomy import Anatomy
from pruning.reduction.install import acting_stages
from search_spaces.architecture import Architecture
from search_spaces.errors import ExportError
from search_spaces.kinds import Kind
from search_spaces.schedule import Schedule

NO_SCHEDULE = Schedule()
_ROOT = "model."  # the exported wrapper holds the model under this name


@dataclass
class ParentGraph:
    """The parent's exported file, read once; `derive` writes variants of it.

    Attributes:
        schedule: the token schedule of the model that was exported; of the parent itself none.
    """

    proto: Any
    anatomy: Anatomy
    schedule: Schedule = NO_SCHEDULE
    _additions: dict[tuple[int, Kind], Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, anatomy: Anatomy) -> "ParentGraph":
        """Read an exported parent.

        Raises:
            ExportError: when the graph does not say where a unit's contribution is added.
        """
        import onnx

        return cls.of_proto(onnx.load(str(path)), anatomy)

    @classmethod
    def of_proto(cls, proto: Any, anatomy: Anatomy, schedule: Schedule = NO_SCHEDULE) -> "ParentGraph":
        """The graph of a parent that was exported with a token schedule.

        Raises:
            ExportError: as `read`.
        """
        graph = cls(proto, anatomy, schedule)
        for block in anatomy.blocks:
            for kind in (Kind.ATTENTION, Kind.MLP):
                last = f"{_ROOT}{anatomy.stack}.{block.index}.{block.contribution(kind).last}"
                graph._additions[block.index, kind] = graph._addition_of(last)
        return graph

    @property
    def weight_bytes(self) -> int:
        """Bytes of all initializers of the parent: no variant has more."""
        return _weight_bytes(self.proto)

    def of(self, architecture: Architecture) -> "ParentGraph":
        """This graph, if the architecture has its token schedule.

        Raises:
            ExportError: it has another one.
        """
        wanted = acting_schedule(architecture, self.anatomy)
        if wanted != self.schedule:
            raise ExportError(
                f"token schedule {str(wanted) or 'none'} is not that of the exported graph "
                f"({str(self.schedule) or 'none'}); export the parent with it first"
            )
        return self

    def derive(self, architecture: Architecture, path: Path) -> Path:
        """Write the file of `architecture`; one that drops everything gives the bare stem.

        A dropped attention takes its past inputs and present outputs with it; the other inputs stay.
        Weights over 1.8 GB go into a second file beside it.

        Raises:
            ExportError: it has another token schedule than this graph.
        """
        self.of(architecture)
        dropped = {
            contribution
            for (layer, kind), (_, contribution) in self._additions.items()
            if not architecture.keeps(layer, kind)
        }
        renamed = self._pass_through(dropped)
        if not self.anatomy.merges_blocks:
            for layer in architecture.removed_blocks():
                renamed |= self._bypass_closing_norms(layer)
        proto = type(self.proto)()
        proto.CopyFrom(self.proto)
        _rewire(proto.graph, renamed)
        _remove_presents(proto.graph, architecture)
        _remove_dead(proto.graph)
        _save(proto, path)
        return path

    def _pass_through(self, dropped: set[str]) -> dict[str, str]:
        """Additions of a dropped contribution become their other operand; a sum of dropped ones is dropped too."""
        renamed: dict[str, str] = {}
        for node in self.proto.graph.node:
            gone = [name for name in node.input if name in dropped]
            if node.op_type != "Add" or not gone:
                continue
            if len(gone) == len(node.input):
                dropped = dropped | {node.output[0]}
            else:
                renamed[node.output[0]] = next(name for name in node.input if name not in dropped)
        return renamed

    def _addition_of(self, module: str) -> tuple[Any, str]:
        """The addition that takes a module's output into the residual stream, and the name of that output."""
        written = {name for node in self.proto.graph.node if _within(node, module) for name in node.output if name}
        for node in self.proto.graph.node:
            contributions = [name for name in node.input if name in written]
            if node.op_type == "Add" and len(contributions) == 1 and not _within(node, module):
                return node, contributions[0]
        raise ExportError(f"the exported graph does not show where {module} is added to the residual stream")

    def _bypass_closing_norms(self, layer: int) -> dict[str, str]:
        """In post-norm, a removed block loses its two norms: its output is its input."""
        (first, contribution), (second, _) = (self._additions[layer, kind] for kind in (Kind.ATTENTION, Kind.MLP))
        entry = next(name for name in first.input if name != contribution)
        norms = [node for node in self.proto.graph.node if second.output[0] in node.input]
        return {node.output[0]: entry for node in norms if node.op_type == "LayerNormalization"}


def acting_schedule(architecture: Architecture, anatomy: Anatomy) -> Schedule:
    """The stages that are left where blocks are removed: none after the last block, of several at one place the last.

    A stage before a removed block acts at the next one, as it does in a graph in which that block passes through.
    """
    merged = architecture.merge_blocks() if anatomy.merges_blocks else architecture
    stages = tuple(stage for _, stage in acting_stages(merged))
    return replace(architecture.tokens, stages=stages) if stages else NO_SCHEDULE


def _weight_bytes(proto: Any) -> int:
    return sum(len(tensor.raw_data) for tensor in proto.graph.initializer)


def _save(proto: Any, path: Path) -> None:
    import onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.data")
    beside.unlink(missing_ok=True)  # onnx appends to what is there
    onnx.save(proto, str(path), save_as_external_data=_weight_bytes(proto) > LARGEST_INLINE, location=beside.name)


def _within(node: Any, module: str) -> bool:
    scopes = next((prop.value for prop in node.metadata_props if prop.key == SCOPES), "[]")
    return any(scope == module or scope.startswith(f"{module}.") for scope in ast.literal_eval(scopes))


def _rewire(graph: Any, renamed: dict[str, str]) -> None:
    def final(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = final(name)
    for output in graph.output:
        if output.name in renamed:  # the last block is gone: the file's output keeps its name
            for node in graph.node:
                node.output[:] = [f"{name}.dropped" if name == output.name else name for name in node.output]
            graph.node.add(op_type="Identity", input=[final(output.name)], output=[output.name])


def _remove_presents(graph: Any, architecture: Architecture) -> None:
    """A dropped attention hands over neither keys nor values."""
    dropped = {
        name
        for layer in range(architecture.depth)
        if not architecture.keeps(layer, Kind.ATTENTION)
        for name in cache_names("present", layer)
    }
    _keep(graph.output, [output for output in graph.output if output.name not in dropped])


def _remove_dead(graph: Any) -> None:
    """Keep what the outputs reach backwards, the initializers and past keys and values that are still read."""
    producers = {name: node for node in graph.node for name in node.output}
    needed, waiting = set(), [output.name for output in graph.output]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            if name in producers:
                waiting.extend(producers[name].input)
    _keep(graph.node, [node for node in graph.node if any(name in needed for name in node.output)])
    _keep(graph.input, [entry for entry in graph.input if entry.name in needed or not is_past(entry.name)])
    for named in (graph.initializer, graph.value_info):
        _keep(named, [entry for entry in named if entry.name in needed])


def _keep(entries: Any, kept: list[Any]) -> None:
    del entries[:]
    entries.extend(kept)
