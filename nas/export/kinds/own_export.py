"""Levels that no edit makes, since a graph has what they change in many places."""

from dataclasses import dataclass

from nas.export.graph_draft import GraphDraft
from nas.export.kinds.edit import Edit
from search_spaces.architecture import Architecture
from search_spaces.unit import Choice, list_kinds


@dataclass(frozen=True)
class OwnExport(Edit):
    """The parent is exported anew with every choice of a kind.

    Example:
        >>> EDIT = OwnExport("attention-heads")
    """

    kind: str

    def find_exported(self, graph: GraphDraft, architecture: Architecture) -> frozenset[Choice]:
        """All of them."""
        return frozenset(choice for choice in architecture.choices if self.kind in list_kinds(choice))
