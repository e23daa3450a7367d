"""The config.json of a model folder: read, refused where it asks for what must not run here, made into a config."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from search_spaces.errors import ModelError, UnsafeCheckpoint

_FILE = "config.json"
_KERNEL_KEYS = ("attn_implementation", "experts_implementation")  # how they end: some are written with an underscore
_ATTENTION = (None, "eager", "sdpa")  # what torch itself has
_EXPERTS = (None, "eager", "batched_mm", "grouped_mm")


def read_document(folder: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    path = folder / _FILE
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        other = next((file.name for file in sorted(folder.glob("*.gguf"))), None)
        beside = "" if other is None else f" but {other}, and GGUF files are not read"
        raise ModelError(
            f"{path.parent} has no config.json{beside}; give a Hugging Face folder with safetensors"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is no JSON ({error}); give an undamaged Hugging Face folder") from None
    if not isinstance(document, dict):
        raise ModelError(f"{path} is no JSON object; give an undamaged Hugging Face folder")
    return document


def check_safe(source: str | Path, document: dict[str, Any], trust_remote_code: bool) -> None:
    """Refuse a config that brings code.

    Raises:
        UnsafeCheckpoint: code of the checkpoint's own that was not allowed, or kernels of a hub, which never are.
    """
    if document.get("auto_map") and not trust_remote_code:
        raise UnsafeCheckpoint(f"{source} carries Python code of its own; pass --trust-remote-code to run it")
    for key, value in _list_kernels(document):
        if "/" in value:
            raise UnsafeCheckpoint(
                f"{source} asks for code from a hub ({key}: {value}); take that line out of its config.json, the "
                "weights do not depend on it"
            )


def read_config(source: str | Path, folder: Path, document: dict[str, Any], trust_remote_code: bool) -> Any:
    """The config of a folder, with implementations that torch itself has and a dtype that exists.

    Raises:
        ModelError: it describes no model that is known.
    """
    settings = {} if _is_known_dtype(document) else {"dtype": "float32"}  # `auto`, for one, is no dtype
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code, **settings
        )
    except Exception as error:  # a family's own checks raise errors of many kinds
        raise ModelError(
            f"{source}: its config cannot be read ({get_first_line(error)}); give a Hugging Face model"
        ) from error
    use_torch_s_own(config)
    return config


def use_torch_s_own(config: Any) -> None:
    """Put the implementations that torch itself has in the place of others, in a config and those within it.

    They compute the same, and the others are not installed where a model is pruned, or are fetched from a hub.
    """
    if getattr(config, "_attn_implementation", None) not in _ATTENTION:
        config._attn_implementation = None
    if getattr(config, "_experts_implementation", None) not in _EXPERTS:
        config._experts_implementation = None
    for key in getattr(config, "sub_configs", {}):
        if getattr(config, key, None) is not None:
            use_torch_s_own(getattr(config, key))


def get_first_line(error: BaseException) -> str:
    """The first line of an error's message, with the next where it only leads up to it; at most 200 letters."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:200]


def _list_kernels(document: Any) -> Iterator[tuple[str, str]]:
    """The implementations that a config and those within it ask for: (key, name)."""
    entries = document.items() if isinstance(document, dict) else [("", each) for each in document]
    for key, value in entries:
        if key.removesuffix("_internal").endswith(_KERNEL_KEYS):
            names = value.values() if isinstance(value, dict) else [value]
            yield from ((key, name) for name in names if isinstance(name, str))
        elif isinstance(value, (dict, list)):
            yield from _list_kernels(value)


def _is_known_dtype(document: dict[str, Any]) -> bool:
    name = document.get("dtype") or document.get("torch_dtype")
    return name is None or isinstance(getattr(torch, str(name), None), torch.dtype)
