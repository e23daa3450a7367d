"""Graphs without some blocks."""

from nas.export.graph_draft import GraphDraft
from nas.export.kinds import attention, cross_attention, mlp
from nas.export.kinds.edit import Edit
from search_spaces.kinds import Kind
from search_spaces.unit import Choice, Unit

_EDITS: dict[Kind, Edit] = {
    Kind.ATTENTION: attention.EDIT,
    Kind.CROSS_ATTENTION: cross_attention.EDIT,
    Kind.MLP: mlp.EDIT,
}


class _RemovedBlock(Edit):
    def apply(self, graph: GraphDraft, choice: Choice) -> None:
        """All parts go; in post-norm also the norms that close them, so that the block's output is its input."""
        parts = tuple(graph.anatomy.blocks[choice.layer].parts)
        for kind in parts:
            _EDITS[kind].apply(graph, Unit(choice.layer, kind).dropped)
        if not graph.anatomy.merges_blocks:
            entry, total = (
                graph.additions[choice.layer, parts[0]].stream,
                graph.additions[choice.layer, parts[-1]].total,
            )
            for node in graph.proto.graph.node:
                if node.op_type == "LayerNormalization" and total in node.input:
                    graph.rename(node.output[0], entry)


EDIT = _RemovedBlock()
