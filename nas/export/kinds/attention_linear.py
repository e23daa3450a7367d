"""Graphs with a linear map in the place of some attentions."""

from nas.export.cached_export import name_cache_tensors
from nas.export.graph_draft import GraphDraft
from nas.export.kinds.linear_part import LinearPartEdit
from search_spaces.kinds import Kind
from search_spaces.unit import Choice


class _LinearAttention(LinearPartEdit):
    def apply(self, graph: GraphDraft, choice: Choice) -> None:
        """Past inputs and present outputs go, as of an attention that is dropped."""
        super().apply(graph, choice)
        graph.remove_outputs(*name_cache_tensors("present", choice.layer))


EDIT = _LinearAttention(Kind.ATTENTION)
