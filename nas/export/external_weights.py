"""Weights of a graph that stay in the file that they were read from, until a graph is written that needs them.

So the graph of a parent of several gigabytes is read and edited without its weights in memory. An initializer whose
content stays elsewhere names that file by its whole path, which no written file does.
"""

from pathlib import Path
from typing import Any

import numpy as np

_SMALL = 1024  # bytes; less is read with the graph, since edits look at sizes and shapes


def load_in_place(path: Path) -> Any:
    """The proto of a file whose weights may lie in a second one, where all large ones are left.

    Example:
        >>> proto = load_in_place(Path("model.onnx"))
        >>> content = read_content(proto.graph.initializer[0])
    """
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    proto = onnx.load(str(path), load_external_data=False)
    for tensor in filter(uses_external_data, proto.graph.initializer):
        info = ExternalDataInfo(tensor)
        file, offset = path.parent.resolve() / info.location, int(info.offset or 0)
        refer(tensor, file, offset, int(info.length or file.stat().st_size - offset))
        if count_bytes(tensor) < _SMALL:
            _put_content(tensor, read_content(tensor))
    return proto


def take_in(proto: Any) -> None:
    """Let a graph hold all weights itself that stay elsewhere; in place."""
    for tensor in proto.graph.initializer:
        if _find_place(tensor) is not None:
            _put_content(tensor, read_content(tensor))


def count_bytes(tensor: Any) -> int:
    """Bytes of an initializer that the graph holds, or that stay elsewhere for it."""
    place = _find_place(tensor)
    return len(tensor.raw_data) if place is None else place[2]


def read_content(tensor: Any) -> bytes | memoryview:
    """Those bytes; what stays in a file is mapped, not copied."""
    place = _find_place(tensor)
    if place is None:
        content: bytes = tensor.raw_data
        return content
    file, offset, length = place
    return np.memmap(file, np.uint8, mode="r", offset=offset, shape=(length,)).data


def refer_like(tensor: Any, other: Any) -> None:
    """Let an initializer have the content of another one, wherever that is."""
    place = _find_place(other)
    if place is None:
        _put_content(tensor, other.raw_data)
    else:
        refer(tensor, *place)


def refer(tensor: Any, file: Path | str, offset: int, length: int) -> None:
    """Let an initializer be bytes of a file: its whole path where they stay, its name where it is beside the graph."""
    from onnx import TensorProto

    del tensor.external_data[:]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _find_place(tensor: Any) -> tuple[Path, int, int] | None:
    """File, offset and length of what stays elsewhere; None of what the graph holds, or a written file will read."""
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    if not uses_external_data(tensor):
        return None
    info = ExternalDataInfo(tensor)
    file = Path(info.location)
    return (file, int(info.offset), int(info.length)) if file.is_absolute() else None


def _put_content(tensor: Any, content: bytes | memoryview) -> None:
    tensor.raw_data = bytes(content)
    del tensor.external_data[:]
    tensor.ClearField("data_location")
