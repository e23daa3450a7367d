"""A part with weights of fewer bits: products that a runtime computes with them as they are."""

from dataclasses import dataclass
from typing import Any, ClassVar

from nas.export.graph_draft import GraphDraft
from nas.export.kinds.edit import Edit
from nas.export.quantised_product import QDQ_OPSET, build_product, round_value
from pruning.kinds.quantised_part import QuantisedPart
from pruning.surgery.input_scale import get_input_scale
from pruning.surgery.linear import get_weight_matrix
from search_spaces.errors import ExportError
from search_spaces.kinds import Kind
from search_spaces.unit import Choice
from search_spaces.weight_formats import TENSORRT, Inputs


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
        if format.runtime == TENSORRT:
            graph.require_opset(QDQ_OPSET)
        for path in surgery.find_matrices(*graph.anatomy.get_place(graph.model, layer)):
            module = graph.get_module(layer, path)
            matrix = get_weight_matrix(module).detach().float()
            reader = graph.find_multiplication(layer, path, matrix.shape)
            if reader is None:
                raise ExportError(
                    f"{choice}: the exported graph does not show the product of {path}; leave {self.kind}-bits out of "
                    "--units"
                )
            output, given, dtype = reader.node.output[0], reader.node.input[0], graph.get_dtype(reader)
            if format.inputs is Inputs.FIXED:
                given = self._round(graph, given, get_input_scale(module), f"{choice}: {path}", dtype)
            graph.replace_product(reader, *build_product(output, given, matrix, format, dtype))

    def _round(self, graph: GraphDraft, given: str, scale: float, words: str, dtype: Any) -> str:
        """The name of a value as it is with 8 bits; matrices that read the same one share the nodes."""
        if not scale:
            raise ExportError(
                f"{words} has no scale for its inputs; calibrate the parent (pruning.analysis.calibrate_inputs)"
            )
        nodes, constants = round_value(given, scale, dtype)
        graph.add_after(given, nodes, constants)
        return str(nodes[-1].output[0])
