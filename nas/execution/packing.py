"""A worker's equipment as plain arrays and a small pickle: what the object store of a cluster keeps once per node.

Tensors leave the pickle as arrays, each storage once. Workers of one node map the same memory, read-only, and build
their tensors over it; nothing is copied. Only for what this program packed itself: a pickle runs code when it is read.
"""

import io
import pickle
import warnings
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """Bytes, and the tensors that they refer to by number."""

    pickled: bytes
    arrays: tuple[NDArray[np.uint8], ...]

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        return len(self.pickled) + sum(array.nbytes for array in self.arrays)


def pack(content: Any) -> Packed:
    """Take anything with tensors on the CPU apart."""
    stream = io.BytesIO()
    packer = _Packer(stream)
    packer.dump(content)
    return Packed(stream.getvalue(), tuple(packer.arrays))


def unpack(packed: Packed, device: torch.device | None = None) -> Any:
    """Put it together again.

    Args:
        device: where its tensors are then; None leaves them over the arrays' own memory: not to be written to.
    """
    return _Unpacker(packed, device).load()


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=5)
        self.arrays: list[NDArray[np.uint8]] = []
        self._positions: dict[tuple[int, int, tuple[int, ...], tuple[int, ...], torch.dtype], int] = {}
        self._kept: list[Tensor] = []  # so that no address is used twice

    def persistent_id(self, content: Any) -> tuple[Any, ...] | None:
        """Tensors are named by the position of their array; anything else is pickled."""
        if type(content) not in (Tensor, torch.nn.Parameter):
            return None
        tensor = content.detach()
        key = (tensor.data_ptr(), tensor.numel(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if key not in self._positions:
            self._positions[key] = len(self.arrays)
            self._kept.append(tensor)
            self.arrays.append(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        is_parameter = isinstance(content, torch.nn.Parameter)
        return self._positions[key], tuple(tensor.shape), tensor.dtype, is_parameter, id(content)


class _Unpacker(pickle.Unpickler):
    def __init__(self, packed: Packed, device: torch.device | None) -> None:
        super().__init__(io.BytesIO(packed.pickled))
        self._arrays, self._device = packed.arrays, device
        self._made: dict[int, Tensor] = {}

    def persistent_load(self, name: tuple[Any, ...]) -> Tensor:
        """The tensor of a name; what was one object is one again, as tied weights are."""
        position, shape, dtype, is_parameter, identity = name
        if identity not in self._made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that it cannot be written to is the point
                flat = torch.from_numpy(self._arrays[position])
            tensor = flat.view(dtype).reshape(shape) if flat.numel() else torch.empty(shape, dtype=dtype)
            tensor = tensor if self._device is None else tensor.to(self._device)
            self._made[identity] = torch.nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
        return self._made[identity]
