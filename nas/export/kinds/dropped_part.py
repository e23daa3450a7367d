"""A dropped part: the graph passes the residual stream by it."""

from nas.export.graph_draft import GraphDraft
from nas.export.kinds.edit import Edit
from search_spaces.unit import Choice


class DroppedPart(Edit):
    """The addition that takes the part's contribution into the stream passes its other operand through."""

    def apply(self, graph: GraphDraft, choice: Choice) -> None:
        """Pass the stream by the part."""
        graph.drop_contribution(choice.layer, choice.unit.kind)
