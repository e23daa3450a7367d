"""Images in class folders, or in the arrays that ship with a reference model."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.data.documents import SPLITS
from nas.data.image_file import SUFFIXES, open_image
from nas.data.problem_type import ProblemType, read_problem_type
from nas.data.text_file import is_hidden, read_bytes
from pruning.anatomy.language_model import find_image_config
from search_spaces.errors import BadData


def read_arrays(folder: Path, model: Any, max_items: Mapping[str, int]) -> dict[str, tuple[Tensor, Tensor]]:
    """(pixels, labels) per split from `calibration.npz`, `validation.npz`, `test.npz`, the first `max_items` of each.

    Each holds `pixels` uint8 (n, height, width[, 3]) and `labels` int (n,).

    Raises:
        BadData: a file is missing, damaged, or holds something else.
    """
    splits = {}
    for name in SPLITS:
        path = folder / f"{name}.npz"
        rule = f"data {path} must hold pixels uint8 (n, height, width[, 3]) and labels int (n,)"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                pixels, labels = arrays["pixels"][: max_items[name]], arrays["labels"][: max_items[name]]
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BadData(f"{rule} ({error}); write it again") from None
        if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or len(pixels) != len(labels) or not len(labels):
            raise BadData(
                f"{rule}, not {pixels.dtype} {pixels.shape} and {labels.dtype} {labels.shape}; write it again"
            )
        splits[name] = (normalise(pixels, model), torch.from_numpy(labels.astype(np.int64)))
    return splits


def read_class_folders(folder: Path, model: Any, max_items: Mapping[str, int]) -> dict[str, tuple[Tensor, Tensor]]:
    """(pixels, labels) per split from a folder with one folder of images per class, at most `max_items` of each.

    Folders named as the model's classes (`label2id`) are those classes; folders with other names are the classes in
    the order of their names, and then there must be as many as the model has. Where the model chooses no class
    (regression, independent labels, no head) any folders will do. The split of an image and its place
    in it follow from its bytes: copies of one image count once, and every split sees every class.

    Raises:
        BadData: no images, an unreadable image, or folders that do not fit the model's classes.
    """
    members: dict[str, dict[str, tuple[Path, int]]] = {name: {} for name in SPLITS}
    for entry, label in _read_labels(folder, model).items():
        for path in sorted(entry.rglob("*")):
            if path.suffix.lower() in SUFFIXES and not is_hidden(path, folder) and path.is_file():
                digest = hashlib.sha256(read_bytes(path)).hexdigest()
                members[_split_of(digest)].setdefault(digest, (path, label))
    empty = [name for name, files in members.items() if not files]
    if empty:
        raise BadData(f"data {folder} leaves no image for {' and '.join(empty)}; give more images")
    splits = {}
    for name, files in members.items():
        # The digest's end, as its beginning decided the split.
        chosen = [files[digest] for digest in sorted(files, key=lambda digest: digest[::-1])[: max_items[name]]]
        pixels = np.stack([_read_pixels(path, model) for path, _ in chosen])
        splits[name] = (normalise(pixels, model), torch.tensor([label for _, label in chosen]))
    return splits


def _read_labels(folder: Path, model: Any) -> dict[Path, int]:
    entries = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry, folder))
    known = {str(name): int(index) for name, index in (getattr(model.config, "label2id", None) or {}).items()}
    if entries and all(entry.name in known for entry in entries):
        return {entry: known[entry.name] for entry in entries}
    chooses = hasattr(model, "classifier") and read_problem_type(model.config) is ProblemType.CLASSES
    classes = getattr(model.config, "num_labels", len(entries)) if chooses else len(entries)
    if not entries or len(entries) != classes:
        names = ", ".join(list(known)[:5])
        raise BadData(
            f"data {folder} has {len(entries)} class folders and the model {classes} classes; name the folders as the "
            f"model's classes ({names}, ...), or give one for every class"
        )
    return {entry: label for label, entry in enumerate(entries)}


def _read_pixels(path: Path, model: Any) -> np.ndarray:
    """(height, width, 3), or (height, width) where the model has one channel."""
    config = find_image_config(model)
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    mode = "L" if getattr(config, "num_channels", 3) == 1 else "RGB"
    return np.asarray(open_image(path, mode).resize((width, height)))


def normalise(pixels: np.ndarray, model: Any) -> Tensor:
    """uint8 (n, h, w[, 3]) to float (n, channels, h, w), with the model's own mean and deviation, else 0.5."""
    values = torch.from_numpy(pixels).float() / 255
    values = values[:, None] if values.ndim == 3 else values.permute(0, 3, 1, 2)
    channels = getattr(model.config, "num_channels", 3)
    if values.shape[1] == 1 and channels == 3:
        values = values.expand(-1, 3, -1, -1)
    mean, deviation = _read_statistics(Path(getattr(model, "name_or_path", "") or ""))
    return ((values - mean) / deviation).contiguous()


def _read_statistics(folder: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation per channel from the `preprocessor_config.json` beside the weights; 0.5 without one."""
    path = folder / "preprocessor_config.json"
    try:
        written = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        both = [torch.tensor(written.get(key, 0.5)).reshape(-1, 1, 1) for key in ("image_mean", "image_std")]
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise BadData(f"{path} cannot be read ({error}); it is JSON with image_mean and image_std") from None
    return both[0], both[1]


def _split_of(digest: str) -> str:
    share = int(digest[:8], 16) / 0xFFFFFFFF
    return "calibration" if share < 0.25 else "validation" if share < 0.6 else "test"
