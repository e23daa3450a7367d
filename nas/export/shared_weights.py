"""Weights of several graphs in one file: each content is written once, and the graphs refer to it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.export.external_weights import count_bytes, read_content, refer, refer_like

PAGE = 4096  # bytes; runtimes map tensors that begin on a page
_MIN_BYTES = 1024  # smaller tensors stay in the graph
_PARENT = "parent"  # in place of a file: the tensor of this name of the parent


@dataclass
class SharedWeights:
    """One file of weights beside graphs.

    Attributes:
        file: what it is called there.
        min_bytes: size from which on a tensor goes into it.
        folder: where it is written; None where its content will be drawn elsewhere.
        fits: which tensors go into it, beside their size.
        size: bytes so far.

    Example:
        >>> shared = SharedWeights("weights.data", folder=Path("models"))
        >>> sharing = graph.rewrite(shared.move)  # what is derived from it reads that file
    """

    file: str
    min_bytes: int = _MIN_BYTES
    folder: Path | None = None
    fits: Callable[[Any], bool] = field(default=lambda tensor: True)
    size: int = 0
    _positions: dict[bytes, int] = field(default_factory=dict)

    def move(self, proto: Any) -> Any:
        """A copy of a graph's proto whose tensors are in the file."""
        copy = type(proto)()
        copy.CopyFrom(proto)
        for tensor in copy.graph.initializer:
            if count_bytes(tensor) >= self.min_bytes and self.fits(tensor):
                content = read_content(tensor)
                refer(tensor, self.file, self._store(content), len(content))
        return copy

    def _store(self, content: bytes | memoryview) -> int:
        """Where a content begins; appended where it is not there yet."""
        name = hashlib.sha256(content).digest()
        if name not in self._positions:
            self._positions[name] = self.size
            self.size += -(-len(content) // PAGE) * PAGE
            if self.folder is not None:
                with (self.folder / self.file).open("ab") as stream:
                    stream.write(content)
                    stream.write(bytes(-len(content) % PAGE))
        return self._positions[name]


def remove_parent_weights(proto: Any, parent: Any) -> Any:
    """A copy of a reduced model's proto that refers to the parent's tensors where its own hold the same."""
    from onnx.external_data_helper import set_external_data

    known = {hashlib.sha256(read_content(tensor)).digest(): tensor.name for tensor in parent.graph.initializer}
    copy = type(proto)()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        name = known.get(hashlib.sha256(tensor.raw_data).digest())
        if name is not None and len(tensor.raw_data) >= _MIN_BYTES:
            set_external_data(tensor, _PARENT, checksum=name)
            tensor.ClearField("raw_data")
    return copy


def restore_parent_weights(proto: Any, parent: Any) -> Any:
    """The proto with the parent's tensors where `remove_parent_weights` took them out; changed in place."""
    known = {tensor.name: tensor for tensor in parent.graph.initializer}
    for tensor in proto.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries.get("location") == _PARENT:
            refer_like(tensor, known[entries["checksum"]])
    return proto
