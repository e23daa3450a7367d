"""Quantised checkpoints are named as what they are: their weights are codes, from which no part can be cut."""

import json
from pathlib import Path
from typing import Any

from pruning.checkpoint.weight_files import Header

_KEYS = ("quantization_config", "compression_config", "quantization")  # the last is MLX's
_FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
    "quanto_qmap.json": "quanto",
}
_METHODS = ("quant_method", "quant_algo", "quantization_method", "format")
_CODES = ("F8", "F4", "F6_", "I8", "U8", "I16", "U16", "I32", "U32", "I4", "U4")  # dtypes, or how they begin
_NAMES = (  # how the names of matrices of codes end: those of plain weights, then those of the tools' own
    "weight", "weights", "_proj", "qweight", "weight_packed", "blocks", "._data", "_qdata", ".W_q", ".codes", ".Qidxs",
    ".indices",
)  # fmt: skip


def find_quantisation(folder: Path, document: dict[str, Any], headers: dict[str, Header]) -> str | None:
    """How a checkpoint is quantised, in a word or two ("gptq, 4 bits"); None where its weights are plain numbers.

    Args:
        folder: the model's, for the files that older tools wrote beside the weights.
        document: its config.json.
        headers: what its weight files say they hold.
    """
    return _find_in_config(document) or _find_in_files(folder) or _find_in_weights(headers)


def _find_in_config(document: dict[str, Any]) -> str | None:
    for key in _KEYS:
        settings = document.get(key)
        if isinstance(settings, dict) and settings:
            return _describe(settings)
    nested = (value for key, value in document.items() if key.endswith("_config") and isinstance(value, dict))
    return next((setting for value in nested if (setting := _find_in_config(value))), None)


def _describe(settings: dict[str, Any]) -> str:
    method = next((str(settings[key]) for key in _METHODS if settings.get(key)), None)
    if method is None:
        method = "bitsandbytes" if any(key.startswith(("load_in", "bnb")) for key in settings) else "an unnamed method"
    bits = next((settings[key] for key in ("bits", "w_bit") if key in settings), None)
    return method if bits is None else f"{method}, {bits} bits"


def _find_in_files(folder: Path) -> str | None:
    for name, method in _FILES.items():
        try:
            settings = json.loads((folder / name).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(settings, dict):
            return _describe({"quant_method": method, **settings})
    return None


def _find_in_weights(headers: dict[str, Header]) -> str | None:
    for name, header in headers.items():
        if header.dtype.startswith(_CODES) and len(header.shape) >= 2 and name.endswith(_NAMES):
            return f"{name} is of {header.dtype}"
    return None
