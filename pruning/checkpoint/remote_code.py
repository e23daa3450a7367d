"""Python code that a checkpoint carries: it runs where a person allowed it, and nobody is asked on stdin."""

import json
from pathlib import Path

from transformers import dynamic_module_utils
from transformers.utils import cached_file

from search_spaces.errors import UnsafeCheckpoint

_CONFIGS = (
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)


def prevent_asking() -> None:
    """Where the library would ask on stdin whether code may run, it refuses.

    It asks wherever a loader within a loader was not told; a processor's tokenizer is one.
    """
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # seconds to answer


def refuse_carried_code(source: str | Path) -> None:
    """Refuse a tokenizer or processor that names code of its own.

    The library would take a class of its own where it knows one for the model, which may split texts in another way.

    Args:
        source: a folder, or a hub id, whose small configs are then fetched.

    Raises:
        UnsafeCheckpoint: a config has an `auto_map`.
    """
    for name in _CONFIGS:
        if "auto_map" in _read_config(source, name):
            raise UnsafeCheckpoint(
                f"{source}: {name} names Python code of its own; pass --trust-remote-code to run it, or save the "
                "tokenizer without it"
            )


def _read_config(source: str | Path, name: str) -> dict[str, object]:
    """Empty where there is none, or none that can be read: whoever loads it says so."""
    path = cached_file(
        str(source), name, local_files_only=Path(source).is_dir(), _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
