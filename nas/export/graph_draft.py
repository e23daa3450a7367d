"""A parent's exported graph while it is edited into that of an architecture."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from nas.export.finishing import keep
from nas.export.module_graph import ROOT, ModuleGraph, NodeInput, is_turned, remove_dead, rewire
from pruning.anatomy.anatomy import Anatomy
from pruning.surgery.linear import get_weight_matrix
from search_spaces.kinds import Kind


@dataclass(frozen=True)
class Addition:
    """What takes a contribution into the residual stream, as names of values: `stream` + `contribution` = `total`."""

    stream: str
    contribution: str
    total: str


@dataclass
class GraphDraft(ModuleGraph):
    """A graph and what is known of it; `finish` carries out what was asked for.

    Attributes:
        anatomy: of the parent.
        model: the parent.
        additions: by block and part.
        adjusted: by block and path, modules with other weights than the parent's.
    """

    anatomy: Anatomy
    model: Any
    additions: dict[tuple[int, Kind], Addition]
    adjusted: dict[tuple[int, str], Any] = field(default_factory=dict)
    _dropped: set[str] = field(default_factory=set)
    _without: set[str] = field(default_factory=set)
    _resized: set[str] = field(default_factory=set)

    def drop_contribution(self, layer: int, kind: Kind) -> None:
        """Let the addition that takes a part's contribution into the stream pass the stream through."""
        self._dropped.add(self.additions[layer, kind].contribution)

    def remove_outputs(self, *names: str) -> None:
        """Let the file not have these outputs, where it has them."""
        self._without.update(names)

    def find_nodes(self, layer: int, path: str) -> list[Any]:
        """The nodes that came from a module of a block."""
        return self.find_named_nodes(name_module(self.anatomy, layer, path))

    def get_module(self, layer: int, path: str) -> Any:
        """A module of a block, or behind the blocks, with the weights that the file is to have."""
        return self.adjusted.get((layer, path)) or self.anatomy.get_place(self.model, layer)[0].get_submodule(path)

    @property
    def blocks(self) -> nn.ModuleList:
        """The parent's."""
        blocks: nn.ModuleList = self.model.get_submodule(self.anatomy.stack)
        return blocks

    def find_product(self, layer: int, path: str, shape: Iterable[int]) -> NodeInput | None:
        """Where the weights of a linear module of a block are read; None where the graph does not show one place."""
        reader = self.find_multiplication(layer, path, shape)
        return reader if reader is not None and reader.name in self.weights else None

    def find_multiplication(self, layer: int, path: str, shape: Iterable[int]) -> NodeInput | None:
        """The same where the weights may also be turned by a node, as large ones are that something else reads, too."""
        return self.find_named_multiplication(name_module(self.anatomy, layer, path), shape)

    def put_projection(self, layer: int, path: str, module: Any) -> bool:
        """Let a linear module of a block have other weights of the same shapes; whether the graph shows where."""
        matrix = get_weight_matrix(module).detach().float().numpy()
        reader = self.find_product(layer, path, matrix.shape)
        if reader is None:
            return False
        self.put_weights(reader, matrix if is_turned(reader) else matrix.T)
        return module.bias is None or self.put_bias(layer, path, module.bias.detach().float().numpy())

    def put_bias(self, layer: int, path: str, bias: "np.ndarray") -> bool:
        """Let a linear module of a block have another bias; whether the graph shows where."""
        nodes = self.find_nodes(layer, path)
        node_inputs = [NodeInput(node, index) for node in nodes for index in range(len(node.input))]
        additions = [
            each
            for each in node_inputs
            if each.name in self.weights and tuple(self.weights[each.name].dims) == bias.shape
        ]
        if len(additions) == 1:
            self.put_weights(additions[0], bias)
        return len(additions) == 1

    def add_product(self, layer: int, path: str, given: str, replaced: str, like: str, bias: bool) -> None:
        """Let the product of a value with zeros be read in another's place; it counts as a module's of a block.

        Args:
            given: (..., hidden), the value.
            replaced: the value in whose place the product is read.
            like: weights whose type the zeros have.
            bias: whether a constant is added.
        """
        from onnx import helper, numpy_helper

        name, hidden = name_module(self.anatomy, layer, path), self.anatomy.hidden_size
        dtype = helper.tensor_dtype_to_np_dtype(self.weights[like].data_type)
        sizes = {f"{name}.weight": (hidden, hidden)} | ({f"{name}.bias": (hidden,)} if bias else {})
        for weights, size in sizes.items():
            self.proto.graph.initializer.append(numpy_helper.from_array(np.zeros(size, dtype), weights))
            self.weights[weights] = self.proto.graph.initializer[-1]
        nodes = [helper.make_node("MatMul", [given, f"{name}.weight"], [f"{name}.product"])]
        nodes += [helper.make_node("Add", [f"{name}.product", f"{name}.bias"], [f"{name}.sum"])] if bias else []
        position = next(n for n, node in enumerate(self.proto.graph.node) if replaced in node.output)
        for node in reversed(nodes):
            self.proto.graph.node.insert(position, node)
        self.producers |= {node.output[0]: node for node in self.proto.graph.node[position : position + len(nodes)]}
        self._added[name] = tuple(node.output[0] for node in nodes)
        self.rename(replaced, nodes[-1].output[0])

    def forget_shapes(self, values: Iterable[str]) -> None:
        """Let the graph note no shapes of values, since they have others now."""
        self._resized.update(values)

    def finish(self) -> None:
        """Carry out the changes and remove what nobody reads any more."""
        graph = self.proto.graph
        rewire(graph, _pass_through(graph, self._dropped) | self._renamed)
        keep(graph.output, [output for output in graph.output if output.name not in self._without])
        keep(graph.value_info, [entry for entry in graph.value_info if entry.name not in self._resized])
        remove_dead(graph)


def name_module(anatomy: Anatomy, layer: int, path: str) -> str:
    """What the exported graph calls a module of a block, or behind the blocks."""
    return f"{ROOT}{anatomy.stack}.{layer}.{path}" if layer < anatomy.depth else f"{ROOT}{path}"


def _pass_through(graph: Any, dropped: set[str]) -> dict[str, str]:
    """Additions of a dropped contribution become their other operand; a sum of dropped ones is dropped too."""
    renamed: dict[str, str] = {}
    for node in graph.node:
        dropped_inputs = [name for name in node.input if name in dropped]
        if node.op_type != "Add" or not dropped_inputs:
            continue
        if len(dropped_inputs) == len(node.input):
            dropped = dropped | {node.output[0]}
        else:
            renamed[node.output[0]] = next(name for name in node.input if name not in dropped)
    return renamed
