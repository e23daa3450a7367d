"""Graphs with fewer tokens: they are exported so, since what ranks tokens runs within the graph."""

from nas.export.graph_draft import GraphDraft
from nas.export.kinds.edit import Edit
from pruning.reduction.install import list_acting_stages
from search_spaces.architecture import Architecture, make_stage_choice
from search_spaces.unit import Choice


class _ReducedTokens(Edit):
    def find_exported(self, graph: GraphDraft, architecture: Architecture) -> frozenset[Choice]:
        """The stages that are left where blocks are removed: none after the last block.

        A stage before a removed block acts at the next one, as it does in a graph in which that block passes through.
        """
        merged = graph.anatomy.merge_blocks(architecture)
        return frozenset(make_stage_choice(stage) for _, stage in list_acting_stages(merged))


EDIT = _ReducedTokens()
