"""Graphs whose products become those of a runtime with weights of fewer bits."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.export.module_graph import ROOT, ModuleGraph, NodeInput, find_origins
from nas.export.quantised_product import QDQ_OPSET, build_product, round_value
from pruning.surgery.input_scale import get_input_scale
from pruning.surgery.linear import get_weight_matrix
from pruning.surgery.quantised_linear import QuantisedLinear
from search_spaces.errors import ExportError
from search_spaces.weight_formats import TENSORRT, Inputs, WeightFormat


def quantise_file(path: Path, model: nn.Module, beside: str | None = None) -> None:
    """Let the products of a written file have the formats of its model; the file is of the model without rounding.

    Args:
        path: a file that was exported of `model`, under `bypass_rounding`.
        beside: the name of a second file for the weights; None for one file.

    Raises:
        ExportError: the graph does not show a product, or the scale of its inputs was not chosen.
    """
    import onnx

    proto = onnx.load(str(path))
    graph = ModuleGraph(proto, find_origins(proto.graph))
    for name, module in model.named_modules():
        if isinstance(module, QuantisedLinear):
            reader = graph.find_named_multiplication(f"{ROOT}{name}", module.weight.shape)
            if reader is None:
                raise ExportError(f"the exported graph does not show the product of {name} ({module.format.name})")
            put_format(graph, reader, module, module.format, name)
    graph.finish()
    if beside is not None:
        path.with_name(beside).unlink(missing_ok=True)  # onnx appends to what is there
    onnx.save(proto, str(path), save_as_external_data=beside is not None, location=beside)


def put_format(graph: ModuleGraph, reader: NodeInput, module: nn.Module, format: WeightFormat, name: str) -> None:
    """Let a product of a graph have a format.

    Args:
        graph: changed; `finish` carries it out.
        reader: where the product reads its weights.
        module: a linear module with the weights that the file is to have.
        name: of the product, in messages.

    Raises:
        ExportError: the scale of its inputs was not chosen, or the graph is in a type that the runtime has no such
            product for.
    """
    matrix, dtype = get_weight_matrix(module).detach().float(), graph.get_dtype(reader)
    if format.runtime == TENSORRT:
        graph.require_opset(QDQ_OPSET)
    output, given = str(reader.node.output[0]), str(reader.node.input[0])
    if format.inputs is Inputs.FIXED:
        given = _round(graph, given, get_input_scale(module, format), format, name, dtype)
    graph.replace_product(reader, *build_product(output, given, matrix, format, dtype))


def _round(graph: ModuleGraph, given: str, scale: float, format: WeightFormat, name: str, dtype: Any) -> str:
    """The name of a value as it is with 8 bits; matrices that read the same one share the nodes."""
    if not scale:
        raise ExportError(
            f"{name} has no scale for its inputs; calibrate the parent (pruning.analysis.calibrate_inputs)"
        )
    nodes, constants = round_value(given, scale, format, dtype)
    graph.add_after(given, nodes, constants)
    return str(nodes[-1].output[0])


def check_type(model: nn.Module, dtype: torch.dtype) -> None:
    """Refuse files in half precision of models with products that ONNX Runtime has in float32 only.

    Raises:
        ExportError: naming the formats.
    """
    if dtype == torch.float32:
        return
    used = {part.format for part in model.modules() if isinstance(part, QuantisedLinear)}
    other = sorted(format.name for format in used if format.runtime != TENSORRT)
    if other:
        raise ExportError(f"weights in {', '.join(other)} are products of float32 inputs; export in fp32")
