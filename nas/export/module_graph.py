"""An exported graph in which nodes are found by the modules that they came from, and products are replaced."""

import ast
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from nas.export.cached_export import is_past
from nas.export.finishing import keep

ROOT = "model."  # the exported wrapper holds the model under this name
SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note on a node: the modules it came from
_MIN_IR = {21: 10}  # of the file format, by opset
_SMALL = 8  # values of a constant that is no weight


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
class ModuleGraph:
    """A graph and the nodes of its modules.

    Attributes:
        proto: changed, unless nothing but reading is asked for.
        origins: by module, the nodes that came from it, each by its first output.

    Example:
        >>> graph = ModuleGraph(proto, find_origins(proto.graph))
        >>> reader = graph.find_named_multiplication("model.lm_head", (256, 64))
    """

    proto: Any
    origins: dict[str, tuple[str, ...]]
    _renamed: dict[str, str] = field(default_factory=dict, kw_only=True)
    _added: dict[str, tuple[str, ...]] = field(default_factory=dict, kw_only=True)  # as `origins`, of nodes put in

    def rename(self, value: str, other: str) -> None:
        """Let those that read a value read another one."""
        self._renamed[value] = other

    def find_named_nodes(self, name: str) -> list[Any]:
        """The nodes that came from a module."""
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

    def find_named_multiplication(self, name: str, shape: Iterable[int]) -> NodeInput | None:
        """Where the weights of a linear module are read, as they are or turned by a node, as large ones are that
        something else reads, too; None where the graph does not show one place."""
        products = [NodeInput(node, 1) for node in self.find_named_nodes(name) if node.op_type in ("MatMul", "Gemm")]
        found = [(each, weights) for each in products if (weights := self._find_weights(each)) is not None]
        fits = len(found) == 1 and sorted(found[0][1].dims) == sorted(shape)
        return found[0][0] if fits else None

    def _find_weights(self, node_input: NodeInput) -> Any | None:
        """The initializer that is read, as it is or turned."""
        node = self.producers.get(node_input.name)
        name = node.input[0] if node is not None and node.op_type == "Transpose" else node_input.name
        return self.weights.get(name)

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

    def finish(self) -> None:
        """Carry out what was asked for and remove what nobody reads any more."""
        rewire(self.proto.graph, self._renamed)
        remove_dead(self.proto.graph)


def find_origins(graph: Any) -> dict[str, tuple[str, ...]]:
    """By module, the nodes that came from it or from what it holds, each by its first output."""
    origins: dict[str, list[str]] = {}
    for node in graph.node:
        noted = next((prop.value for prop in node.metadata_props if prop.key == SCOPES), "[]")
        for module in {prefix for scope in ast.literal_eval(noted) for prefix in accumulate(scope.split("."), _join)}:
            origins.setdefault(module, []).append(node.output[0])
    return {module: tuple(names) for module, names in origins.items()}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}"


def is_turned(node_input: NodeInput) -> bool:
    """Whether a product reads its weights as (out, in)."""
    return any(attribute.name == "transB" and attribute.i for attribute in node_input.node.attribute)


def rewire(graph: Any, renamed: dict[str, str]) -> None:
    """Let those that read a value read the one that it is renamed to."""

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


def remove_dead(graph: Any) -> None:
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
