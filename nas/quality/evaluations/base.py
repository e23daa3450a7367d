"""The contract of every memory of evaluations, and what a single one looks like outside.

A score does not depend on device, workload or budget: another target or budget is solved from what is kept here
without touching the model.
"""

from abc import ABC, abstractmethod
from typing import Any

from nas.quality.precision import Precision
from nas.quality.quality import Quality
from search_spaces.architecture import Architecture
from search_spaces.errors import NasError
from search_spaces.tokens import TOKENS_REVISION

SCHEMA_VERSION = 1

Key = tuple[Architecture, int, Precision]  # on how many items, in which arithmetic


class Evaluations(ABC):
    """Qualities by architecture, number of items and precision, which other searches read and write meanwhile.

    What was found once stays as it is: where two searches judge the same at once, each goes on with its own quality,
    and all later ones read the one that was kept first.
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

    def fewer(self, key: Key) -> int:
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

    def _keep(self, key: Key, quality: Quality) -> None:
        self._known.setdefault(key, quality)
        self._items.setdefault((key[0], key[2]), set()).add(key[1])


def to_entry(key: Key, quality: Quality) -> dict[str, Any]:
    """The JSON form of an evaluation; `from_entry` reads it."""
    architecture, asked, precision = key
    entry = {
        "architecture": architecture.to_json(),
        "asked": asked,
        "precision": str(precision),
        "quality": quality.to_json(),
        "per_item": list(quality.per_item),
    }
    return {**entry, "tokens_revision": TOKENS_REVISION} if architecture.tokens.stages else entry


def from_entry(entry: Any) -> tuple[Key, Quality] | None:
    """An evaluation; None where it is damaged, or of token schedules as another version carried them out."""
    try:
        quality = Quality.from_json(entry["quality"], tuple(entry["per_item"]))
        architecture = Architecture.from_json(entry["architecture"])
        if architecture.tokens.stages and entry.get("tokens_revision") != TOKENS_REVISION:
            return None
        return (architecture, int(entry["asked"]), Precision(entry["precision"])), quality
    except (AttributeError, KeyError, NasError, TypeError, ValueError):
        return None
