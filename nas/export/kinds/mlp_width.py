"""Graphs with narrower MLPs: cut weights take the places of the parent's."""

from dataclasses import dataclass, field

import numpy as np

from nas.export.graph_draft import GraphDraft
from nas.export.kinds.edit import Edit
from nas.export.module_graph import NodeInput, is_turned
from pruning.kinds.mlp_width import SURGERY, find_matrices
from pruning.surgery.linear import get_weight_matrix
from search_spaces.architecture import Architecture
from search_spaces.kinds.mlp_width import KIND
from search_spaces.unit import Choice, list_kinds

ANY = -1  # in a shape, a size that follows from the others


@dataclass
class _Site:
    """Where a graph has the width of an MLP.

    Attributes:
        neurons: of the parent's.
        down: path of the matrix that reads them.
        weights, biases: where those of each matrix are read, by its path within the block; biases only of those whose
            outputs the neurons are.
        shapes: where constant shapes are read.
        sizes: where constant sizes are read that may as well follow from others.
        inner: values between the matrices.
    """

    neurons: int
    down: str
    weights: dict[str, NodeInput] = field(default_factory=dict)
    biases: dict[str, NodeInput] = field(default_factory=dict)
    shapes: list[NodeInput] = field(default_factory=list)
    sizes: list[NodeInput] = field(default_factory=list)
    inner: set[str] = field(default_factory=set)

    @property
    def widths(self) -> tuple[int, int]:
        """The neurons, and gate and up together."""
        return self.neurons, 2 * self.neurons


class _NarrowedMlp(Edit):
    def find_exported(self, graph: GraphDraft, architecture: Architecture) -> frozenset[Choice]:
        """Those of blocks in which the graph does not show all inputs that the width has."""
        asked = [choice for choice in architecture.choices if KIND.name in list_kinds(choice)]
        return frozenset(choice for choice in asked if _find_site(graph, choice.layer) is None)

    def apply(self, graph: GraphDraft, choice: Choice) -> None:
        """Let the graph read the pruned model's cut weights, and the new width where a shape has the old one."""
        site = _find_site(graph, choice.layer)
        assert site is not None, "a width that cannot be edited is exported"
        block, anatomy = graph.blocks[choice.layer], graph.anatomy.blocks[choice.layer]
        modules = SURGERY.build_modules(block, anatomy, choice.level, ())
        for path, node_input in site.weights.items():
            matrix = get_weight_matrix(modules[path]).detach().float().numpy()
            graph.put_weights(node_input, matrix if is_turned(node_input) else matrix.T)
        for path, node_input in site.biases.items():
            graph.put_weights(node_input, modules[path].get_parameter("bias").detach().float().numpy())
        kept = get_weight_matrix(modules[site.down]).shape[1]
        for node_input in site.shapes:
            shape = graph.read_constant(node_input)
            assert shape is not None
            graph.put_weights(node_input, np.where(np.isin(shape, site.widths), shape // site.neurons * kept, shape))
        for node_input in site.sizes:
            graph.put_weights(node_input, np.array([ANY]))
        graph.forget_shapes(site.inner)


def _find_site(graph: GraphDraft, layer: int) -> _Site | None:
    """Where the graph has the width of a block's MLP; None where it does not show all of it."""
    matrices = find_matrices(graph.blocks[layer], graph.anatomy.blocks[layer])
    if matrices is None:
        return None
    site = _Site(matrices.neurons, matrices.down)
    for path in (*matrices.up, matrices.down):
        module = graph.blocks[layer].get_submodule(path)
        for node_input in (
            NodeInput(node, index) for node in graph.find_nodes(layer, path) for index in range(len(node.input))
        ):
            sizes = sorted(graph.weights[node_input.name].dims) if node_input.name in graph.weights else None
            if sizes == sorted(get_weight_matrix(module).shape) and _multiplies(node_input):
                site.weights[path] = node_input
            elif sizes == [get_weight_matrix(module).shape[0]] and path != matrices.down:
                site.biases[path] = node_input
        if path not in site.weights or (module.bias is not None and path not in {*site.biases, matrices.down}):
            return None
    return site if _follow(graph, site, [site.weights[path].node.output[0] for path in matrices.up]) else None


def _follow(graph: GraphDraft, site: _Site, begin: list[str]) -> bool:
    """Go from what writes the neurons to what reads them; whether everything on the way is understood."""
    waiting, reader = list(begin), site.weights[site.down].node.output[0]
    node_inputs: list[NodeInput] = []
    while waiting:
        name = waiting.pop()
        if name not in site.inner:
            site.inner.add(name)
            nodes = [node_input.node for node_input in graph.readers.get(name, ())]
            nodes = [node for node in nodes if node.op_type != "Shape" and node.output[0] != reader]
            waiting += [output for node in nodes for output in node.output]
            node_inputs += [NodeInput(node, index) for node in nodes for index in range(len(node.input))]
    others = [node_input for node_input in node_inputs if node_input.name not in site.inner]
    return all(_is_understood(graph, site, node_input) for node_input in others)


def _is_understood(graph: GraphDraft, site: _Site, node_input: NodeInput) -> bool:
    """Whether a value that meets the neurons is a bias, one number for all of them, or a shape, which is noted.

    A number that is their count may say where they end, as when gate and up are cut apart.
    """
    if node_input.name in {bias.name for bias in site.biases.values()}:
        return True
    if node_input.node.op_type == "Reshape":
        return _note_shape(graph, site, node_input)
    constant = graph.read_constant(node_input)
    return constant is not None and constant.size == 1 and not _has_width(site, np.abs(constant))


def _note_shape(graph: GraphDraft, site: _Site, node_input: NodeInput) -> bool:
    """Note where a shape has the width: in a constant, or in one of the sizes that it is made of."""
    shape = graph.read_constant(node_input)
    if shape is not None:
        site.shapes += [node_input] if _has_width(site, shape) else []
        return True
    maker = graph.producers.get(node_input.name)
    if maker is None or maker.op_type != "Concat":
        return False
    pieces = [NodeInput(maker, index) for index in range(len(maker.input))]
    known = [(piece, size) for piece in pieces if (size := graph.read_constant(piece)) is not None]
    widths = [piece for piece, size in known if _has_width(site, size)]
    site.sizes += widths
    is_shape = all(reader.node.op_type == "Reshape" for reader in graph.readers[node_input.name])
    return not widths or (is_shape and len(widths) == 1 and not any((size == ANY).any() for _, size in known))


def _has_width(site: _Site, values: np.ndarray) -> bool:
    return bool(np.isin(values, site.widths).any())


def _multiplies(node_input: NodeInput) -> bool:
    """Whether a node input is that of the weights of a product."""
    return node_input.index == 1 and node_input.node.op_type in ("MatMul", "Gemm")


EDIT = _NarrowedMlp()
