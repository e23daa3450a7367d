"""Evaluations on disk: what is known about architectures of one parent on one data set, for every later search.

A score does not depend on device, workload or budget: another target or budget is solved from this file without
touching the model. One JSON document per line, appended as soon as it is known, so that nothing finished is lost.
"""

import json
from pathlib import Path

from nas.quality.precision import Precision
from nas.quality.quality import Quality
from search_spaces.architecture import Architecture

SCHEMA_VERSION = 1

Key = tuple[Architecture, int, Precision]  # on how many items, in which arithmetic


class Evaluations:
    """A file of qualities by architecture, number of items and precision; `content` names weights, data and metric."""

    def __init__(self, path: Path, content: str) -> None:
        """Read what is there. Another content's or another version's file is replaced at the first new entry."""
        self._path, self._header = path, {"schema_version": SCHEMA_VERSION, "content": content}
        self._known: dict[Key, Quality] = {}
        self._items: dict[tuple[Architecture, Precision], set[int]] = {}
        self._usable = self._read()

    def __contains__(self, key: Key) -> bool:
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
        """Keep a quality, in memory and on disk."""
        self._keep(key, quality)
        if not self._usable:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._header) + "\n")
            self._usable = True
        entry = {
            "architecture": key[0].to_json(),
            "asked": key[1],
            "precision": str(key[2]),
            "quality": quality.to_json(),
            "per_item": list(quality.per_item),
        }
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _keep(self, key: Key, quality: Quality) -> None:
        self._known[key] = quality
        self._items.setdefault((key[0], key[2]), set()).add(key[1])

    def _read(self) -> bool:
        try:
            header, *lines = self._path.read_text().splitlines()
            if json.loads(header) != self._header:
                return False
        except (OSError, ValueError):
            return False
        whole = True
        for line in lines:
            try:
                entry = json.loads(line)
                quality = Quality.from_json(entry["quality"], tuple(entry["per_item"]))
                architecture, precision = Architecture.from_json(entry["architecture"]), Precision(entry["precision"])
                self._keep((architecture, int(entry["asked"]), precision), quality)
            except (ValueError, KeyError, TypeError):  # a line that was cut off when the machine stopped
                whole = False
        if not whole:
            self._rewrite()
        return True

    def _rewrite(self) -> None:
        """Without the damaged lines: the next one must start on its own."""
        known, self._known, self._usable = self._known, {}, False
        for key, quality in known.items():
            self.add(key, quality)
