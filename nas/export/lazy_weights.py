"""Weights that an export reads when the file is written, one after another, in the type that the file has.

A model is traced with empty tensors in the places of its large weights, which cost no memory as nobody looks at them.
Behind the trace stand the model's own weights, read from its checkpoint and converted when it is their turn.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pruning.inference.residency import SMALLEST, release_tensors
from pruning.inference.widening import NARROW, copy_unwidened
from search_spaces.errors import ExportError

_MATRIX = 2  # dimensions
_OTHER = 4096  # bytes of an initializer from which on it is not turned in memory


@dataclass(frozen=True)
class LazyWeights:
    """A model to be traced, and what belongs in the places of its empty tensors.

    Attributes:
        model: the traced one.
        sources: the model's own weights, by the address of the empty tensor in their place.

    Example:
        >>> lazy = LazyWeights.of(model, torch.float16)
        >>> program = torch.onnx.export(lazy.model, inputs, dynamo=True, optimize=False)
        >>> lazy.put_back(program.model.graph)
    """

    model: Any
    sources: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any, dtype: torch.dtype) -> "LazyWeights":
        """A copy whose weights have a type: `torch.float32` of narrow ones, `torch.float16` of all parameters."""
        instead: dict[int, Tensor] = {}
        sources: dict[int, Tensor] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            if not _is_converted(tensor, dtype):
                continue
            made = torch.empty(tensor.shape, dtype=dtype) if tensor.nbytes >= SMALLEST else _convert(tensor, dtype)
            if tensor.nbytes >= SMALLEST:
                sources[made.data_ptr()] = tensor
            instead[id(tensor)] = nn.Parameter(made, False) if isinstance(tensor, nn.Parameter) else made
        return cls(copy_unwidened(model, instead) if instead else model, sources)

    def put_back(self, graph: Any) -> None:
        """Let a traced graph that was not optimised read the weights; those that it turns are turned when written.

        Args:
            graph: `onnx_ir.Graph`; changed in place.
        """
        for value in list(graph.initializers.values()):
            tensor = value.const_value.raw if hasattr(value.const_value, "raw") else None
            if isinstance(tensor, Tensor) and tensor.data_ptr() in self.sources:
                source, dtype = self.sources[tensor.data_ptr()], tensor.dtype
                value.const_value = _build_lazy(value, tensor.shape, partial(_convert, source, dtype))
        _turn_when_written(graph)


def _is_converted(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Buffers in float32 stay: they are few numbers, and rotary frequencies need them all."""
    if dtype == torch.float32 or not isinstance(tensor, nn.Parameter):
        return tensor.dtype in NARROW and tensor.dtype != dtype
    return tensor.is_floating_point() and tensor.dtype != dtype


def _convert(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a type; what was read of a file for it is let go of.

    Raises:
        ExportError: a number that the type does not hold.
    """
    converted = tensor.detach().to(dtype)
    if dtype == torch.float16 and not bool(converted.isfinite().all()):
        largest = float(tensor.detach().abs().max())
        raise ExportError(f"a weight of {largest:.3g} is beyond fp16 (65504); export in fp32")
    release_tensors([tensor])
    return converted


def _turn_when_written(graph: Any) -> None:
    """Let large weights that only a transposition reads be stored as it gives them, without a copy until then."""
    for node in list(graph):
        value = node.inputs[0] if node.op_type == "Transpose" else None
        if value is None or value.name not in graph.initializers or len(value.uses()) != 1:
            continue
        held, perm = value.const_value, node.attributes["perm"].as_ints() if "perm" in node.attributes else (1, 0)
        if len(held.shape) != _MATRIX or list(perm) != [1, 0] or held.nbytes < _OTHER:
            continue
        del graph.initializers[value.name]
        _replace_node(graph, node, held)


def _replace_node(graph: Any, node: Any, held: Any) -> None:
    """Let an initializer stand in a transposition's place."""
    import onnx_ir as ir

    old = node.outputs[0]
    name, shape = old.name, ir.Shape(list(reversed(held.shape.numpy())))
    new = ir.Value(name=name, shape=shape, type=ir.TensorType(held.dtype))
    old.name = f"{name}.turned"
    ir.convenience.replace_all_uses_with(old, new)
    graph.remove(node, safe=True)
    new.const_value = ir.LazyTensor(
        lambda: ir.Tensor(held.numpy().T.copy(), dtype=held.dtype, name=name), dtype=held.dtype, shape=shape, name=name
    )
    graph.register_initializer(new)


def _build_lazy(value: Any, shape: torch.Size, read: Callable[[], Tensor]) -> Any:
    import onnx_ir as ir
    from onnx_ir.tensor_adapters import TorchTensor

    return ir.LazyTensor(
        lambda: TorchTensor(read(), name=value.name), dtype=value.dtype, shape=ir.Shape(list(shape)), name=value.name
    )
