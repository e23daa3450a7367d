"""A dropped part: the graph passes the residual stream by it."""

from nas.export.graph_draft import GraphDraft
from search_spaces.architecture import Architecture
from search_spaces.unit import Choice


class DroppedPart:
    """The addition that takes the part's contribution into the stream passes its other operand through."""

    def find_exported(self, graph: GraphDraft, architecture: Architecture) -> frozenset[Choice]:
        """None: any graph can be edited so."""
        return frozenset()

    def apply(self, graph: GraphDraft, choice: Choice) -> None:
        """Pass the stream by the part."""
        graph.drop_contribution(choice.layer, choice.unit.kind)
