"""Graphs without some attentions."""

from nas.export.cached_export import name_cache_tensors
from nas.export.graph_draft import GraphDraft
from nas.export.kinds.dropped_part import DroppedPart
from search_spaces.unit import Choice


class _DroppedAttention(DroppedPart):
    def apply(self, graph: GraphDraft, choice: Choice) -> None:
        """Its past inputs and present outputs go with it."""
        super().apply(graph, choice)
        graph.remove_outputs(*name_cache_tensors("present", choice.layer))


EDIT = _DroppedAttention()
