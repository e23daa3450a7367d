"""A linear map in the place of a part: one product with what the part is given."""

from dataclasses import dataclass

from nas.export.graph_draft import GraphDraft
from nas.export.kinds.edit import Edit
from pruning.anatomy.contribution import Contribution
from pruning.kinds.linear_part import AXIS, describe_stand_in, has_bias
from search_spaces.architecture import Architecture
from search_spaces.kinds import Kind
from search_spaces.unit import Choice


@dataclass(frozen=True)
class _Site:
    """Where a graph has a part.

    Attributes:
        given: the value that its matrices read.
        written: the value that it adds to the stream.
        weights: of one of its matrices.
    """

    given: str
    written: str
    weights: str


@dataclass(frozen=True)
class LinearPartEdit(Edit):
    """The part `kind` is cut off where its matrices read, and a product is put in; what nothing reads goes."""

    kind: Kind

    def find_exported(self, graph: GraphDraft, architecture: Architecture) -> frozenset[Choice]:
        """Those of blocks in which the graph does not show one value that is read and one that is written."""
        asked = (each for each in architecture.choices if each.kind is self.kind and each.level.get_value(AXIS))
        return frozenset(choice for choice in asked if self._find_site(graph, choice.layer) is None)

    def apply(self, graph: GraphDraft, choice: Choice) -> None:
        """Put zeros in, as they are before compensation; `GraphDraft.put_projection` puts weights in their place."""
        site, part = self._find_site(graph, choice.layer), self._get_part(graph, choice.layer)
        assert site is not None, "a part whose place does not show is exported"
        path, bias = str(describe_stand_in(part).projection), has_bias(graph.blocks[choice.layer], part)
        graph.add_product(choice.layer, path, site.given, site.written, site.weights, bias)

    def _get_part(self, graph: GraphDraft, layer: int) -> Contribution:
        return graph.anatomy.blocks[layer].get_contribution(self.kind)

    def _find_site(self, graph: GraphDraft, layer: int) -> _Site | None:
        """Where the graph has the part of a block; None where that does not show, or it was exported with the map."""
        part = self._get_part(graph, layer)
        if graph.find_nodes(layer, str(describe_stand_in(part).projection)):
            return None
        nodes = [node for path in (*part.members, *part.after) for node in graph.find_nodes(layer, path)]
        inner = {output for node in nodes for output in node.output}
        read = [
            (node.input[0], node.input[1])
            for node in nodes
            if node.op_type == "MatMul" and node.input[0] not in inner and node.input[1] in graph.weights
        ]
        outputs = {output for node in graph.find_nodes(layer, part.last) for output in node.output}
        written = [name for name in outputs if any(r.node.output[0] not in inner for r in graph.readers.get(name, ()))]
        adds_itself = any(form.stream is not None for form in part.forms)
        if adds_itself or len({given for given, _ in read}) != 1 or len(written) != 1:
            return None
        return _Site(read[0][0], written[0], read[0][1])
