"""Images in class folders, or in the arrays that ship with a reference model."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.data.documents import SPLITS
from search_spaces.errors import BadData

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


def read_arrays(folder: Path, model: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """(pixels, labels) per split from `calibration.npz`, `validation.npz`, `test.npz`.

    Each holds `pixels` uint8 (n, height, width[, 3]) and `labels` int (n,).
    """
    splits = {}
    for name in SPLITS:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            pixels, labels = arrays["pixels"], arrays["labels"]
        splits[name] = (normalise(pixels, model), torch.from_numpy(labels.astype(np.int64)))
    return splits


def read_class_folders(folder: Path, model: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """(pixels, labels) per split from a folder with one folder of images per class, in the order of their names.

    The split of an image follows from its bytes, so that copies of one image are never in two.

    Raises:
        BadData: no images, an unreadable image, or more classes than the model has.
    """
    from PIL import Image, UnidentifiedImageError

    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    known = getattr(model.config, "num_labels", len(classes))
    if not classes or len(classes) > known:
        raise BadData(f"data {folder} has {len(classes)} class folders and the model {known} classes; match them")
    size = model.config.image_size
    found: dict[str, list[tuple[np.ndarray, int]]] = {name: [] for name in SPLITS}
    for label, entry in enumerate(classes):
        for path in sorted(entry.rglob("*")):
            if path.suffix.lower() not in _SUFFIXES:
                continue
            try:
                image = Image.open(path).convert("RGB").resize((size, size))
            except (UnidentifiedImageError, OSError) as error:
                raise BadData(f"data {path} is no readable image ({error}); remove or convert it") from None
            found[_split_of(path.read_bytes())].append((np.asarray(image), label))
    empty = [name for name, members in found.items() if not members]
    if empty:
        raise BadData(f"data {folder} leaves no image for {' and '.join(empty)}; give more images")
    return {
        name: (normalise(np.stack([p for p, _ in members]), model), torch.tensor([label for _, label in members]))
        for name, members in found.items()
    }


def normalise(pixels: np.ndarray, model: Any) -> Tensor:
    """uint8 (n, h, w[, 3]) to float (n, channels, h, w) with mean and deviation 0.5."""
    values = torch.from_numpy(pixels).float() / 255
    values = values[:, None] if values.ndim == 3 else values.permute(0, 3, 1, 2)
    channels = getattr(model.config, "num_channels", 3)
    if values.shape[1] == 1 and channels == 3:
        values = values.expand(-1, 3, -1, -1)
    return ((values - 0.5) / 0.5).contiguous()


def _split_of(content: bytes) -> str:
    share = int(hashlib.sha256(content).hexdigest()[:8], 16) / 0xFFFFFFFF
    return "calibration" if share < 0.25 else "validation" if share < 0.6 else "test"
