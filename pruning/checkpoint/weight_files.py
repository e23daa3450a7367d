"""The safetensors files of a model folder: which they are, and what they say they hold. No weight is read here."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from search_spaces.errors import ModelError, UnsafeCheckpoint

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SUFFIX = ".safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_OTHERS = {"*.gguf": "GGUF", "*.h5": "TensorFlow", "*.msgpack": "Flax", "*.distcp": "distributed"}
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DEFECTS = (OSError, SafetensorError)


@dataclass(frozen=True)
class Header:
    """What a file says of one tensor: its dtype in the words of safetensors (F32, BF16, I8, ...), and its shape."""

    dtype: str
    shape: tuple[int, ...]


def find_weights(folder: Path, named: Any = None) -> tuple[Path, ...]:
    """The files that hold a model's weights: one, or the shards that an index names.

    Args:
        folder: the model's.
        named: the file or the index that the config asks for, where it does.

    Raises:
        ModelError: there are none, or some of the named ones are not there.
        UnsafeCheckpoint: weights are pickled, or lie outside of the folder.
    """
    if named is not None and not isinstance(named, str):
        raise ModelError(f"{folder}: transformers_weights in its config.json is {named!r}; name a file, or take it out")
    if named is not None:
        names = read_index(folder, named) if named.endswith(".json") else (named,)
    elif (folder / WEIGHTS).exists():
        names = (WEIGHTS,)
    elif (folder / INDEX).exists():
        names = read_index(folder, INDEX)
    else:
        raise _build_no_weights_error(folder)
    return tuple(_resolve_inside(folder, name) for name in names)


def read_index(folder: Path, name: str = INDEX) -> tuple[str, ...]:
    """The names of the shards in an index, each one a safetensors file inside the folder.

    Raises:
        ModelError: the index is damaged.
        UnsafeCheckpoint: it names something else.
    """
    path = _resolve_inside(folder, name, suffix=".json")
    try:
        index = json.loads(path.read_text())
        names = tuple(sorted(set(index["weight_map"].values())))
        complete = bool(names) and isinstance(index["metadata"], dict) and all(isinstance(name, str) for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise ModelError(f"{path} is no index of weights; it needs metadata and a weight_map from tensors to files")
    for shard in names:
        _check_name(folder, shard, _SUFFIX)
    return names


def read_headers(files: Iterable[Path]) -> dict[str, Header]:
    """What the files hold, by tensor name.

    Raises:
        ModelError: a file is damaged.
    """
    headers = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (no mapping)
                    part = file.get_slice(name)
                    headers[name] = Header(part.get_dtype(), tuple(part.get_shape()))
        except _DEFECTS as error:
            raise ModelError(f"{path} cannot be loaded: {error}; check that the download is complete") from error
    return headers


def read_stored_dtypes(headers: Mapping[str, Header]) -> tuple[torch.dtype, ...]:
    """The floating-point dtypes of the tensors, that of the most values first."""
    values: Counter[torch.dtype] = Counter()
    for header in headers.values():
        dtype = get_dtype(header)
        if dtype is not None:
            values[dtype] += prod(header.shape)
    return tuple(dtype for dtype, _ in values.most_common())


def get_dtype(header: Header) -> torch.dtype | None:
    """The floating-point dtype of a tensor; None where it is no such tensor."""
    return _FLOATS.get(header.dtype)


def _resolve_inside(folder: Path, name: str, suffix: str = _SUFFIX) -> Path:
    """A file by its name in the folder. A link may lead into the blobs of the hub's own cache, and nowhere else."""
    _check_name(folder, name, suffix)
    path = folder / name
    try:
        real, root = path.resolve(strict=True), folder.resolve()
    except (OSError, RuntimeError):
        raise ModelError(f"{folder} lacks {name}, which holds a part of its weights; give a complete folder") from None
    cache = next((parent.parent for parent in root.parents if parent.name == "snapshots"), None)
    if not real.is_relative_to(root) and (cache is None or real.parent != cache / "blobs"):
        raise UnsafeCheckpoint(f"{path} is a link to a file outside of the folder; put the file itself there")
    return path


def _check_name(folder: Path, name: Any, suffix: str) -> None:
    path = Path(str(name))
    if path.is_absolute() or ".." in path.parts:
        raise UnsafeCheckpoint(f"{folder} names weights outside of the folder ({name}); put all its files into it")
    if path.suffix != suffix:
        raise UnsafeCheckpoint(
            f"{folder} names {name} for its weights; only safetensors are read, as other files can run code when read"
        )


def _build_no_weights_error(folder: Path) -> ModelError:
    if any(True for pattern in _PICKLES for _ in folder.glob(pattern)):
        return UnsafeCheckpoint(
            f"{folder} has pickled weights only, which can run code when read; save the model as safetensors"
        )
    for pattern, form in _OTHERS.items():
        if any(True for _ in folder.glob(pattern)):
            return ModelError(f"{folder} has {form} weights only; give the model's safetensors")
    other = next((path.name for path in sorted(folder.glob(f"*{_SUFFIX}"))), None)
    if other is not None:
        return ModelError(f"{folder} has {other}, but neither {WEIGHTS} nor {INDEX}; give a complete folder")
    return ModelError(f"{folder} has no *.safetensors weights; give a complete Hugging Face folder")
