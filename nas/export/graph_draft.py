"""A parent's exported graph while it is edited into that of an architecture."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from nas.export.cached_export import is_past
from nas.export.finishing import keep
from pruning.anatomy.anatomy import Anatomy
from pruning.surgery.linear import get_weight_matrix
from search_spaces.kinds import Kind

_ROOT = "model."  # the exported wrapper holds the model under this name
_MIN_IR = {21: 10}  # of the file format, by opset
_SMALL = 8  # values of a constant that is no weight


@dataclass(frozen=True)
class Addition:
    """What takes a contribution into the residual stream, as names of values: `stream` + `contribution` = `total`."""

    stream: str
    contribution: str
    total: str


@dataclass(frozen=True)
class NodeInput:
    """Where a value is read: the input `index` of a node."""

    node: Any
    index: int

    @property
    def name(self) -> str:
        """The value's."""
        return str(self.node.input[self.index])


@dataclass
class GraphDraft:
    """A graph and what is known of it; `finish` carries out what was asked for.

    Attributes:
        proto: changed, unless nothing but reading is asked for.
        anatomy: of the parent.
        model: the parent.
        additions: by block and part.
        origins: by module, the nodes that came from it, each by its first output.
        adjusted: by block and path, modules with other weights than the parent's.
    """

    proto: Any
    anatomy: Anatomy
    model: Any
    additions: dict[tuple[int, Kind], Addition]
    origins: dict[str, tuple[str, ...]]
    adjusted: dict[tuple[int, str], Any] = field(default_factory=dict)
    _dropped: set[str] = field(default_factory=set)
    _renamed: dict[str, str] = field(default_factory=dict)
    _without: set[str] = field(default_factory=set)
    _resized: set[str] = field(default_factory=set)
    _added: dict[str, tuple[str, ...]] = field(default_factory=dict)  # as `origins`, of nodes that were put in

    def drop_contribution(self, layer: int, kind: Kind) -> None:
        """Let the addition that takes a part's contribution into the stream pass the stream through."""
        self._dropped.add(self.additions[layer, kind].contribution)

    def rename(self, value: str, other: str) -> None:
        """Let those that read a value read another one."""
        self._renamed[value] = other

    def remove_outputs(self, *names: str) -> None:
        """Let the file not have these outputs, where it has them."""
        self._without.update(names)

    def find_nodes(self, layer: int, path: str) -> list[Any]:
        """The nodes that came from a module of a block."""
        name = name_module(self.anatomy, layer, path)
        return [self.producers[output] for output in self._added.get(name) or self.origins.get(name, ())]

    @cached_property
    def producers(self) -> dict[str, Any]:
        """By value, the node that gives it."""
        return {name: node for node in self.proto.graph.node for name in node.output}

    @cached_property
    def readers(self) -> dict[str, list[NodeInput]]:
        """By value, where it is read."""
        readers: dict[str, list[NodeInput]] = {}
        for node in self.proto.graph.node:
            for index, name in enumerate(node.input):
                readers.setdefault(name, []).append(NodeInput(node, index))
        return readers

    @cached_property
    def weights(self) -> dict[str, Any]:
        """The initializers by name."""
        return {tensor.name: tensor for tensor in self.proto.graph.initializer}

    def read_constant(self, node_input: NodeInput) -> "np.ndarray | None":
        """The values of a small initializer; None where it is large, or something else is read there."""
        from onnx import numpy_helper

        tensor = self.weights.get(node_input.name)
        small = tensor is not None and math.prod(tensor.dims) <= _SMALL
        return np.asarray(numpy_helper.to_array(tensor)) if small else None

    def put_weights(self, node_input: NodeInput, values: np.ndarray) -> None:
        """Let other values be read by a node input that reads an initializer, in its type."""
        from onnx import helper, numpy_helper

        dtype = helper.tensor_dtype_to_np_dtype(self.weights[node_input.name].data_type)
        name = f"{node_input.node.output[0]}.{node_input.index}"
        tensor = numpy_helper.from_array(np.ascontiguousarray(values, dtype), name)
        if node_input.name == name:  # cut weights, of which compensation makes others
            self.weights[name].CopyFrom(tensor)
            return
        self.proto.graph.initializer.append(tensor)
        self.weights[name] = self.proto.graph.initializer[-1]
        node_input.node.input[node_input.index] = name

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
        products = [NodeInput(node, 1) for node in self.find_nodes(layer, path) if node.op_type in ("MatMul", "Gemm")]
        found = [(each, weights) for each in products if (weights := self._find_weights(each)) is not None]
        fits = len(found) == 1 and sorted(found[0][1].dims) == sorted(shape)
        return found[0][0] if fits else None

    def _find_weights(self, node_input: NodeInput) -> Any | None:
        """The initializer that is read, as it is or turned."""
        node = self.producers.get(node_input.name)
        name = node.input[0] if node is not None and node.op_type == "Transpose" else node_input.name
        return self.weights.get(name)

    def put_projection(self, layer: int, path: str, module: Any) -> bool:
        """Let a linear module of a block have other weights of the same shapes; whether the graph shows where."""
        matrix = get_weight_matrix(module).detach().float().numpy()
        reader = self.find_product(layer, path, matrix.shape)
        if reader is None:
            return False
        self.put_weights(reader, matrix if is_turned(reader) else matrix.T)
        return module.bias is None or self.put_bias(layer, path, module.bias.detach().float().numpy())

    def replace_product(self, reader: NodeInput, nodes: list[Any], weights: list[Any]) -> None:
        """Let nodes compute what the product that reads certain weights does; the last of them gives its value.

        Args:
            reader: where the product reads its weights.
            weights: initializers that they read.
        """
        from onnx import helper

        old, graph = reader.node, self.proto.graph
        graph.initializer.extend(weights)
        if old.op_type == "Gemm" and len(old.input) > 2:
            value = nodes[-1].output[0]
            nodes = [*nodes, helper.make_node("Add", [value, old.input[2]], [f"{value}.biased"])]
        position = next(n for n, node in enumerate(graph.node) if old.output[0] in node.output)
        for node in reversed(nodes):
            graph.node.insert(position, node)
        self.rename(old.output[0], nodes[-1].output[0])
        known = {each.domain for each in self.proto.opset_import}
        for domain in sorted({node.domain for node in nodes} - known):
            self.proto.opset_import.append(helper.make_opsetid(domain, 1))

    def add_after(self, value: str, nodes: list[Any], weights: list[Any]) -> None:
        """Put nodes behind the one that gives a value, with initializers that they read, unless they are there."""
        graph, given = self.proto.graph, {name for node in nodes for name in node.output}
        if any(given & set(node.output) for node in graph.node):
            return
        graph.initializer.extend(weights)
        position = next((n for n, node in enumerate(graph.node, 1) if value in node.output), 0)
        for node in reversed(nodes):
            graph.node.insert(position, node)

    def require_opset(self, version: int) -> None:
        """Let the file be of at least this opset; what operators of older ones do stays the same in newer ones."""
        entry = next(each for each in self.proto.opset_import if not each.domain)
        if entry.version < version:
            entry.version = version
            self.proto.ir_version = max(self.proto.ir_version, _MIN_IR[version])

    def get_dtype(self, node_input: NodeInput) -> Any:
        """Of the weights that are read, as numpy has it."""
        from onnx import helper

        weights = self._find_weights(node_input)
        assert weights is not None, "it was found by them"
        return helper.tensor_dtype_to_np_dtype(weights.data_type)

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
        _rewire(graph, _pass_through(graph, self._dropped) | self._renamed)
        keep(graph.output, [output for output in graph.output if output.name not in self._without])
        keep(graph.value_info, [entry for entry in graph.value_info if entry.name not in self._resized])
        _remove_dead(graph)


def is_turned(node_input: NodeInput) -> bool:
    """Whether a product reads its weights as (out, in)."""
    return any(attribute.name == "transB" and attribute.i for attribute in node_input.node.attribute)


def name_module(anatomy: Anatomy, layer: int, path: str) -> str:
    """What the exported graph calls a module of a block, or behind the blocks."""
    return f"{_ROOT}{anatomy.stack}.{layer}.{path}" if layer < anatomy.depth else f"{_ROOT}{path}"


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


def _rewire(graph: Any, renamed: dict[str, str]) -> None:
    def is_final(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    for node in graph.node:
        for node_input, name in enumerate(node.input):
            node.input[node_input] = is_final(name)
    for output in graph.output:
        if output.name in renamed:  # the last block is gone: the file's output keeps its name
            for node in graph.node:
                node.output[:] = [f"{name}.dropped" if name == output.name else name for name in node.output]
            graph.node.add(op_type="Identity", input=[is_final(output.name)], output=[output.name])


def _remove_dead(graph: Any) -> None:
    """Keep what the outputs reach backwards, the initializers and past keys and values that are still read."""
    producers = {name: node for node in graph.node for name in node.output}
    needed, waiting = set(), [output.name for output in graph.output]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            if name in producers:
                waiting.extend(producers[name].input)
    keep(graph.node, [node for node in graph.node if any(name in needed for name in node.output)])
    keep(graph.input, [entry for entry in graph.input if entry.name in needed or not is_past(entry.name)])
    for named in (graph.initializer, graph.value_info):
        keep(named, [entry for entry in named if entry.name in needed])
