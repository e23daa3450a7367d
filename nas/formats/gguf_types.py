"""Types of tensors in a GGUF file: float32, or blocks of 32 whole numbers with a scale in half precision.

`w8` and `w4` have llama.cpp's own blocks and sign of the scale (`Q8_0`, `Q4_0`), so the numbers that the search chose
are written as they are, and only the scales are rounded. A quantiser run over them would choose scales anew.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning.surgery.quantised_linear import quantise_weights, round_weights
from search_spaces.errors import ExportError
from search_spaces.weight_formats import FORMATS, WeightFormat

BLOCK = 32  # weights
TYPES = {"w8": "Q8_0", "w4": "Q4_0"}  # by the name of the format
PLAIN = "F32"
_HALF = 16  # of a block: a byte of Q4_0 has a weight of the first half and one of the second
_ROUNDED = 2.0**-10  # how far scales in half precision move a weight, relative to the largest


def pack_matrix(matrix: Tensor, format: WeightFormat) -> np.ndarray:
    """The bytes of a matrix (out, in), `in` a multiple of 32: (out, bytes of a row)."""
    codes, scales = quantise_weights(matrix, format)
    halves = scales.to(torch.float16).numpy()[..., None].view(np.uint8)
    values = codes.to(torch.int8).numpy()
    if format.bits == FORMATS["w4"].bits:
        nibbles = (values + 8).astype(np.uint8)
        values = nibbles[..., :_HALF] | nibbles[..., _HALF:] << 4
    blocks = np.concatenate([halves, values.view(np.uint8)], axis=-1)
    return np.ascontiguousarray(blocks.reshape(len(blocks), -1))


def add_tensor(writer: Any, name: str, tensor: Tensor, format: WeightFormat | None) -> None:
    """Add a tensor to a file that is written, in a format or in float32."""
    import gguf

    if format is None:
        writer.add_tensor(name, tensor.contiguous().numpy())
    else:
        raw = gguf.GGMLQuantizationType[TYPES[format.name]]
        writer.add_tensor(name, pack_matrix(tensor, format), raw_dtype=raw)


def choose_file_type(tensors: dict[str, Tensor], formats: dict[str, WeightFormat]) -> int:
    """The type that most weights of a file have, by llama.cpp's number of it."""
    import gguf

    counts: dict[str, int] = {}
    for name, tensor in tensors.items():
        kind = f"MOSTLY_{TYPES[formats[name].name]}" if name in formats else f"ALL_{PLAIN}"
        counts[kind] = counts.get(kind, 0) + tensor.numel()
    return int(gguf.LlamaFileType[max(counts, key=lambda kind: counts[kind])])


def check_written(path: Path, tensors: dict[str, Tensor], formats: dict[str, WeightFormat]) -> None:
    """Read a file back, and compare every tensor with what it was written from.

    Raises:
        ExportError: one is missing, or has other values than the model multiplies with.
    """
    import gguf

    written = {each.name: each for each in gguf.GGUFReader(path).tensors}
    if written.keys() != tensors.keys():
        raise ExportError(f"{path.name} has other tensors than the model: {sorted(written.keys() ^ tensors.keys())[0]}")
    for name, tensor in tensors.items():
        actual = torch.tensor(gguf.quants.dequantize(written[name].data, written[name].tensor_type))
        expected = round_weights(tensor, formats[name]) if name in formats else tensor
        limit = float(expected.abs().max()) * _ROUNDED if name in formats else 0.0
        if actual.shape != expected.shape or not float((actual - expected).abs().max()) <= limit:
            raise ExportError(f"{path.name}: {name} is not what the model multiplies with; do not deploy it")
