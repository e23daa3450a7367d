"""Which weights are in memory: those that are mapped from files can be let go of, and are read again when used.

A checkpoint that is mapped costs memory only for what was looked at. A large model is streamed: as soon as a block
has run, its weights are let go of, so that no more than a block or two is resident, whoever runs the model. What was
let go of stays in the system's cache of files as long as nobody else needs that memory.
"""

import ctypes
import mmap
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pruning.inference.device import CPU
from search_spaces.errors import UsageError

AUTO, ALWAYS, NEVER = "auto", "always", "never"
SMALLEST = 1 << 20  # bytes: smaller tensors stay
_SHARE = 4  # a model whose weights are more than so manieth a part of the memory is streamed
_MAPS, _MEMORY = Path("/proc/self/maps"), Path("/proc/meminfo")
_WEIGHTS = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r.-p .*\.safetensors$", re.MULTILINE)
_NOT_NEEDED = 4  # MADV_DONTNEED
_PAGES, _ENTRY = Path("/proc/self/pagemap"), 8  # bytes of what it has of a page
_PRESENT, _SWAPPED, _OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))

Range = tuple[int, int]  # addresses: the first, and the first beyond


def decides_to_stream(asked: str, model: nn.Module, device: torch.device) -> bool:
    """Whether a model that is to be evaluated on a device is streamed: where its weights take much of the memory.

    Args:
        asked: auto, always or never.

    Raises:
        UsageError: it was asked for where it cannot be.
    """
    if asked == NEVER or (asked == AUTO and device.type != CPU):
        return False
    if device.type != CPU:
        raise UsageError(f"--stream {asked}: blocks are streamed on the CPU; take --device cpu, or --stream {AUTO}")
    mapped = count_mapped(model)
    if asked == ALWAYS and not mapped:
        raise UsageError(f"--stream {asked}: this model's weights are not mapped from its files; take --stream {AUTO}")
    return asked == ALWAYS or mapped > read_free_memory() // _SHARE


def read_free_memory() -> int:
    """Bytes that this machine can still give to programs; a large number where nobody tells."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMORY.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) << 10 if found else 1 << 62


def release_weights(module: nn.Module) -> int:
    """Let go of the memory of a module's weights that are mapped from files; gives the bytes.

    Nothing is lost: they are read again when they are used. Weights that somebody wrote to since they were mapped are
    no longer those of the file, and stay. Elsewhere than on Linux the system alone decides.
    """
    return release_tensors(module.parameters())


def release_tensors(tensors: Iterable[Tensor]) -> int:
    """The same of some tensors."""
    large = [tensor for tensor in tensors if tensor.nbytes >= SMALLEST and tensor.device.type == CPU]
    mapped = _find_mapped() if large else []
    return sum(_release(begin, end) for begin, end in _find_pages(large, mapped))


def stream(model: nn.Module) -> list[RemovableHandle]:
    """Let go of the weights of each block, and of other large modules, as soon as it has run.

    So it is in all candidates that are cut from the model later. What is returned ends it.

    Example:
        >>> handles = stream(parent.model)
    """
    blocks = [block for part in model.modules() if isinstance(part, nn.ModuleList) for block in part]
    inside = {id(part) for block in blocks for part in block.modules()}
    others = [part for part in model.modules() if id(part) not in inside and _is_large(part)]
    return [part.register_forward_hook(_release_after) for part in (*blocks, *others)]


@contextmanager
def streaming(model: nn.Module) -> Iterator[None]:
    """Stream a model meanwhile."""
    handles = stream(model)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def hold(module: nn.Module) -> Iterator[None]:
    """Let a module of a streamed model keep its weights meanwhile, and let go of them at the end."""
    hooks = module._forward_hooks
    taken = {key: hook for key, hook in hooks.items() if hook is _release_after}
    for key in taken:
        del hooks[key]
    try:
        yield
    finally:
        hooks.update(taken)
        if taken:
            release_weights(module)


def stop_streaming(model: nn.Module) -> None:
    """Let a model keep its weights from now on."""
    for part in model.modules():
        for key in [key for key, hook in part._forward_hooks.items() if hook is _release_after]:
            del part._forward_hooks[key]


def is_streamed(model: nn.Module) -> bool:
    """Whether a model lets go of its weights."""
    return any(_release_after in part._forward_hooks.values() for part in model.modules())


def _is_large(module: nn.Module) -> bool:
    return any(tensor.nbytes >= SMALLEST for tensor in module.parameters(recurse=False))


def count_mapped(model: nn.Module) -> int:
    """Bytes of the weights that are mapped from files."""
    mapped = _find_mapped()
    return sum(tensor.nbytes for tensor in model.parameters() if _is_mapped(tensor, mapped))


def _release_after(module: nn.Module, args: Any, output: Any) -> None:
    release_weights(module)


def _find_mapped() -> list[Range]:
    """Where files of weights are mapped, privately, now."""
    if not sys.platform.startswith("linux"):
        return []
    return [(int(begin, 16), int(end, 16)) for begin, end in _WEIGHTS.findall(_MAPS.read_text())]


def _is_mapped(tensor: Tensor, mapped: list[Range]) -> bool:
    begin = tensor.data_ptr()
    return any(first <= begin and begin + tensor.nbytes <= beyond for first, beyond in mapped)


def _find_pages(tensors: list[Tensor], mapped: list[Range]) -> Iterator[Range]:
    """The whole pages of those tensors that are mapped."""
    for tensor in tensors:
        if _is_mapped(tensor, mapped):
            begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
            yield -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE


def _is_as_in_file(begin: int, end: int) -> bool:
    """Whether nobody wrote to these pages: one that was written to is anonymous memory; not where nobody tells."""
    first, count = begin // mmap.PAGESIZE, (end - begin) // mmap.PAGESIZE
    try:
        with _PAGES.open("rb", buffering=0) as pages:
            pages.seek(first * _ENTRY)
            entries = np.frombuffer(pages.read(count * _ENTRY), dtype=np.uint64)
    except OSError:
        return False
    anonymous = (entries & _PRESENT != 0) & (entries & _OF_FILE == 0)
    return len(entries) == count and not (anonymous | (entries & _SWAPPED != 0)).any()


def _release(begin: int, end: int) -> int:
    if end <= begin or not _is_as_in_file(begin, end):
        return 0
    result = ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _NOT_NEEDED)
    return end - begin if result == 0 else 0
