"""How a kind of unit changes an exported graph."""

from typing import ClassVar

from nas.export.graph_draft import GraphDraft
from search_spaces.architecture import Architecture
from search_spaces.unit import Choice


class Edit:
    """What a kind of unit changes in a graph; here: nothing, which any graph allows.

    One is registered for every kind of `search_spaces.kinds.KINDS`, under the same name. A level that no edit makes is
    part of the export: the parent is exported anew with it.

    Attributes:
        places_weights: whether it puts the weights that the file is to have in another form, so that it comes after
            everything that changes them.

    Example:
        >>> edit: Edit = EDITS["mlp"]
        >>> edit.apply(draft, Unit(1, Kind.MLP).dropped)
    """

    places_weights: ClassVar[bool] = False

    def find_exported(self, graph: GraphDraft, architecture: Architecture) -> frozenset[Choice]:
        """The choices of this kind, and for it, with which the parent must have been exported.

        Args:
            graph: the parent's own; only read.
            architecture: whose graph is wanted.
        """
        return frozenset()

    def apply(self, graph: GraphDraft, choice: Choice) -> None:
        """Give a unit its level in the graph of a parent; choices that it was exported with are not asked for."""
