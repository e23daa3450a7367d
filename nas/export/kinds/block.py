"""Graphs without some blocks."""

from nas.export.graph_draft import GraphDraft
from nas.export.kinds import attention, mlp
from nas.export.kinds.edit import Edit
from search_spaces.kinds import Kind
from search_spaces.unit import Choice, Unit


class _RemovedBlock(Edit):
    def apply(self, graph: GraphDraft, choice: Choice) -> None:
        """Both parts go; in post-norm also the norms that close them, so that the block's output is its input."""
        attention.EDIT.apply(graph, Unit(choice.layer, Kind.ATTENTION).dropped)
        mlp.EDIT.apply(graph, Unit(choice.layer, Kind.MLP).dropped)
        if not graph.anatomy.merges_blocks:
            entry = graph.additions[choice.layer, Kind.ATTENTION].stream
            total = graph.additions[choice.layer, Kind.MLP].total
            for node in graph.proto.graph.node:
                if node.op_type == "LayerNormalization" and total in node.input:
                    graph.rename(node.output[0], entry)


EDIT = _RemovedBlock()
