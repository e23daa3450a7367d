"""The contract of every memory of evaluations, and what a single one looks like outside.

A score does not depend on device, workload or budget: another target or budget is solved from what is kept here
without touching the model.
"""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from nas.quality.precision import Precision
from nas.quality.quality import Quality
from search_spaces.architecture import Architecture
from search_spaces.errors import NasError
from search_spaces.schedule import TOKENS_REVISION

SCHEMA_VERSION = 1

Key = tuple[Architecture, int, Precision]  # on how many items, in which arithmetic

_DIGEST = "digest"
_NAMES = {"architecture", "asked", "precision", "quality", "per_item", "tokens_revision", _DIGEST}
_logger = logging.getLogger(__name__)


class Evaluations(ABC):
    """Qualities by architecture, number of items and precision, which other searches read and write meanwhile.

    What was found once stays as it is: where two searches judge the same at once, each goes on with its own quality,
    and all later ones read the one that was kept first.

    Example:
        >>> known: Evaluations = FileEvaluations(Path("evaluations.jsonl"), "digest of weights and data")
        >>> known.add((architecture, 8, Precision.FP32), quality)
    """

    def __init__(self) -> None:
        self._known: dict[Key, Quality] = {}
        self._items: dict[tuple[Architecture, Precision], set[int]] = {}

    def __contains__(self, key: Key) -> bool:
        """Whether it is known to anybody."""
        if key not in self._known:
            self._look()
        return key in self._known

    def __getitem__(self, key: Key) -> Quality:
        return self._known[key]

    def find_fewer(self, key: Key) -> int:
        """The most items below the asked number on which the architecture is known in that arithmetic; 0 for none."""
        architecture, asked, precision = key
        return max((items for items in self._items.get((architecture, precision), ()) if items < asked), default=0)

    def __len__(self) -> int:
        return len(self._known)

    def add(self, key: Key, quality: Quality) -> None:
        """Keep a quality, for this search and all others; nothing happens where it is known already."""
        if key not in self:
            self._keep(key, quality)
            self._write(key, quality)

    @abstractmethod
    def _look(self) -> None:
        """Keep what others found since the last look; cheap where that is nothing."""

    @abstractmethod
    def _write(self, key: Key, quality: Quality) -> None:
        """Let others have it."""

    def _take(self, entries: Iterable[object], where: str) -> None:
        """Keep what `encode_entry` wrote; what is damaged is left out, so that it is evaluated again, and is said."""
        damaged = 0
        for entry in entries:
            try:
                quality = decode_entry(entry)
            except ValueError:
                damaged += 1
                continue
            if quality is not None:
                self._keep(*quality)
        if damaged:
            _logger.warning(
                "%s: %d of the evaluations kept there do not match their digest or cannot be read; they are made again",
                where,
                damaged,
            )

    def _keep(self, key: Key, quality: Quality) -> None:
        self._known.setdefault(key, quality)
        self._items.setdefault((key[0], key[2]), set()).add(key[1])


def encode_entry(key: Key, quality: Quality) -> dict[str, Any]:
    """The JSON form of an evaluation, with a digest of the rest; `decode_entry` reads it."""
    architecture, asked, precision = key
    entry = {
        "architecture": architecture.to_json(),
        "asked": asked,
        "precision": str(precision),
        "quality": quality.to_json(),
        "per_item": list(quality.per_item),
    }
    if architecture.tokens.stages:
        entry["tokens_revision"] = TOKENS_REVISION
    return {**entry, _DIGEST: _compute_digest(entry)}


def decode_entry(entry: object) -> tuple[Key, Quality] | None:
    """An evaluation; None for one of token schedules as another version carried them out.

    Entries without a digest were written by versions that had none, and are taken as they are.

    Raises:
        ValueError: it is damaged: not what its digest is of, or not in the form of `encode_entry`.
    """
    if not isinstance(entry, dict) or not entry.keys() <= _NAMES:
        raise ValueError("not the form of an evaluation")
    rest = {name: value for name, value in entry.items() if name != _DIGEST}
    if _DIGEST in entry and entry[_DIGEST] != _compute_digest(rest):
        raise ValueError("not what the digest is of")
    try:
        quality = Quality.from_json(entry["quality"], tuple(entry["per_item"]))
        architecture = Architecture.from_json(entry["architecture"])
        key = architecture, int(entry["asked"]), Precision(entry["precision"])
    except (AttributeError, KeyError, NasError, TypeError) as error:
        raise ValueError(f"not the form of an evaluation: {error}") from error
    if architecture.tokens.stages and entry.get("tokens_revision") != TOKENS_REVISION:
        return None
    return key, quality


def _compute_digest(entry: dict[str, Any]) -> str:
    """Sixteen hexadecimal digits that name the content, however it is spaced and ordered."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]
