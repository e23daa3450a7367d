"""The little of CUDA that running an engine takes, from the driver's own library: no package is needed."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

_MAJOR, _MINOR = 75, 76  # attributes of the compute capability
_NON_BLOCKING = 1


class Cuda:
    """The first GPU and its primary context, which runtimes share. Every call raises OSError where it fails."""

    def __init__(self, library: Any = None) -> None:
        """Raises OSError where there is no driver or no GPU; `library` stands in for libcuda."""
        self._library = ctypes.CDLL("libcuda.so.1") if library is None else library
        self._device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)

    def read_name(self) -> str:
        """The GPU's name and compute capability."""
        text, major, minor = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
        self._call("cuDeviceGetName", text, len(text), self._device)
        self._call("cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, self._device)
        self._call("cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, self._device)
        return f"{text.value.decode()} (sm_{major.value}{minor.value})"

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU."""
        address = ctypes.c_ulonglong()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        return address.value

    def upload(self, array: np.ndarray) -> int:
        """The address of a copy of a contiguous array on the GPU."""
        address = self.allocate(array.nbytes)
        source, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyHtoD_v2", ctypes.c_ulonglong(address), source, size)
        return address

    def free(self, address: int) -> None:
        """Give back what `allocate` or `upload` took."""
        self._call("cuMemFree_v2", ctypes.c_ulonglong(address))

    def create_stream(self) -> int:
        """A new stream."""
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        return int(stream.value or 0)

    def synchronize(self, stream: int) -> None:
        """Wait until a stream has done all it was given."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise OSError(f"{name} answered {code}")
