"""Graphs with fewer heads: they are exported so, since a graph has the number of heads in many places."""

from nas.export.graph_draft import GraphDraft
from nas.export.kinds.edit import Edit
from search_spaces.architecture import Architecture
from search_spaces.kinds.attention_heads import KIND
from search_spaces.unit import Choice, list_kinds


class _FewerHeads(Edit):
    def find_exported(self, graph: GraphDraft, architecture: Architecture) -> frozenset[Choice]:
        """All of them."""
        return frozenset(choice for choice in architecture.choices if KIND.name in list_kinds(choice))


EDIT = _FewerHeads()
