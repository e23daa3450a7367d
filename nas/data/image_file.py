"""An image of a file, upright and in eight bits, whatever its mode."""

from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.errors import BadData

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
_DEEP = ("I", "F")  # the first letter of modes with more than eight bits
_LARGEST = 65535  # of sixteen bits


def open_image(path: Path, mode: str = "RGB") -> Any:
    """A Pillow image in `mode`, turned as its EXIF tag says.

    Raises:
        BadData: it cannot be read, is far too large, or has brighter pixels than sixteen bits hold.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            return (_reduce_to_eight_bits(upright) if upright.mode.startswith(_DEEP) else upright).convert(mode)
    except Exception as error:  # every format's decoder has errors of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BadData(f"data {path} is no readable image ({reason}); remove or convert it") from None


def _reduce_to_eight_bits(image: Any) -> Any:
    """Sixteen bits, which `convert` would cut off at 255.

    Raises:
        ValueError: it has other values.
    """
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "I" and values.min() >= 0 and values.max() <= 255:  # eight bits in a wide mode
        return Image.fromarray(values.astype(np.uint8))
    if values.min() < 0 or values.max() > _LARGEST or values.dtype.kind == "f":
        raise ValueError(f"mode {image.mode} with values from {values.min():g} to {values.max():g}")
    return Image.fromarray(np.round(values.astype(np.float64) * (255 / _LARGEST)).astype(np.uint8))
