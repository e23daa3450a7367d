"""A part with weights of fewer bits: products that a runtime computes with them as they are."""

from dataclasses import dataclass
from typing import ClassVar

from nas.export.graph_draft import GraphDraft
from nas.export.kinds.edit import Edit
from nas.export.quantised_graph import put_format
from pruning.kinds.quantised_part import QuantisedPart
from pruning.surgery.linear import get_weight_matrix
from search_spaces.errors import ExportError
from search_spaces.kinds import Kind
from search_spaces.unit import Choice


@dataclass(frozen=True)
class QuantisedPartEdit(Edit):
    """The products of the part `kind` become those of a runtime with weights of fewer bits."""

    kind: Kind
    places_weights: ClassVar[bool] = True

    def apply(self, graph: GraphDraft, choice: Choice) -> None:
        """Replace every product of the part.

        Raises:
            ExportError: the graph does not show one of them, or the scale of its inputs was not chosen.
        """
        surgery, layer = QuantisedPart(self.kind), choice.layer
        format = surgery.get_format(choice.level)
        for path in surgery.find_matrices(*graph.anatomy.get_place(graph.model, layer)):
            module = graph.get_module(layer, path)
            reader = graph.find_multiplication(layer, path, get_weight_matrix(module).shape)
            if reader is None:
                raise ExportError(
                    f"{choice}: the exported graph does not show the product of {path}; leave {self.kind}-bits out of "
                    "--units"
                )
            put_format(graph, reader, module, format, f"{choice}: {path}")
