"""What is done to every graph before it is written, so that other programs can work with the file.

ONNX Runtime's quantiser takes every node called `Attention` for its own older operator of that name, and believes
noted types of weights that it has replaced. So the operator is called through a function of the file, which runtimes
put back when they load it, and no types of weights are noted: a weight says itself what it is.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOMAIN = "nas"
ATTENTION = "ScaledDotProductAttention"


def finish_file(path: Path) -> None:
    """Rewrite an exported file, finished; weights in a second file stay where they are."""
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    finish(proto)
    onnx.save(proto, str(path))


def finish(proto: Any) -> None:
    """Remove weights that nobody reads and the noted types of all, call attention through a function; in place."""
    graph = proto.graph
    read = set(_read_names(graph)) | {output.name for output in graph.output}
    weights = {tensor.name for tensor in graph.initializer}
    keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])
    keep(graph.value_info, [entry for entry in graph.value_info if entry.name not in weights])
    _call_attention(proto)


def keep(entries: Any, kept: list[Any]) -> None:
    """Let a repeated field of a proto hold these entries only."""
    del entries[:]
    entries.extend(kept)


def _read_names(graph: Any) -> Iterator[str]:
    """What the nodes of a graph, and of the graphs inside of them, read."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _read_names(inner)
                yield from (output.name for output in inner.output)


def _call_attention(proto: Any) -> None:
    """Replace each node of the operator by a call; calls with equal settings share a function."""
    from onnx import helper

    functions: dict[bytes, Any] = {}
    version = next((entry.version for entry in proto.opset_import if entry.domain == ""), 1)
    for node in proto.graph.node:
        if node.op_type != "Attention" or node.domain:
            continue
        inputs = [f"input_{position}" if name else "" for position, name in enumerate(node.input)]
        outputs = [f"output_{position}" if name else "" for position, name in enumerate(node.output)]
        body = helper.make_node("Attention", inputs, outputs)
        body.attribute.extend(sorted(node.attribute, key=lambda attribute: str(attribute.name)))
        key = body.SerializeToString(deterministic=True)
        if key not in functions:
            given = [name or f"unused_{position}" for position, name in enumerate(inputs)]
            functions[key] = helper.make_function(
                DOMAIN, f"{ATTENTION}{len(functions) or ''}", given, [name for name in outputs if name], [body],
                [helper.make_opsetid("", version)],
            )  # fmt: skip
        node.op_type, node.domain = functions[key].name, DOMAIN
        del node.attribute[:]
        keep(node.output, [name for name in node.output if name])
    if functions:
        proto.functions.extend(functions.values())
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
