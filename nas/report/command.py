"""What a person types to search for the same again."""

import json
import shlex
from dataclasses import MISSING, Field, fields
from decimal import Decimal
from typing import Any

from nas.request.search_request import SearchRequest

# Where things are kept, and the name that a search was given, say nothing of what it asked; and URLs hold passwords.
_LOCATIONS = ("out", "storage", "tracking_uri", "id")
_FLAGS = {
    "time_limit_s": "time-limit",
    "heal_s": "heal",
    "arithmetic": "evaluate-in",
    "prefix_cache_bytes": "prefix-cache",
}


def build_command(request: SearchRequest) -> str:
    """`nas search` with every flag that is not at its default."""
    words = ["nas", "search"]
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name not in _LOCATIONS and value != _get_default(field):
            words += [f"--{_FLAGS.get(field.name, field.name).replace('_', '-')}", *_format_flag(field.name, value)]
    return shlex.join(words)


def _get_default(field: "Field[Any]") -> Any:
    return None if field.default is MISSING else field.default


def _format_flag(name: str, value: Any) -> list[str]:
    """The value as the flag takes it; a switch takes none."""
    if value is True:
        return []
    if name in ("time_limit_s", "heal_s"):
        return [f"{Decimal(repr(value)).normalize():f}s"]
    if name == "prefix_cache_bytes":
        return [str(value >> 20)]
    if isinstance(value, dict):
        return [json.dumps(value)]
    if isinstance(value, tuple):
        return [",".join(str(each) for each in value) or "none"]
    return [str(getattr(value, "text", value))]
