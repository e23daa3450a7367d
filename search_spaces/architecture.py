"""An architecture: one immutable choice of level for every unit of a parent."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from search_spaces.errors import ArchitectureError
from search_spaces.unit import Kind, Unit

SCHEMA_VERSION = 1
_WORDS = {(True, True): "attn+mlp", (True, False): "attn", (False, True): "mlp", (False, False): "none"}
_REMOVED = "removed"


@dataclass(frozen=True)
class Architecture:
    """Which units of a parent with `depth` blocks are dropped. Pure data, hashable, JSON.

    A dropped unit contributes nothing to the residual stream; in a post-norm model its norm stays. A dropped
    block is gone with its norms, so its attention and MLP are not listed beside it.
    """

    depth: int
    dropped: frozenset[Unit] = frozenset()

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ArchitectureError(f"depth {self.depth} is below 1; a parent has at least one block")
        beyond = sorted(unit for unit in self.dropped if not 0 <= unit.layer < self.depth)
        if beyond:
            raise ArchitectureError(
                f"{beyond[0]} is out of range: the parent has {self.depth} blocks, numbered 0 to {self.depth - 1}"
            )
        blocks = {unit.layer for unit in self.dropped if unit.kind is Kind.BLOCK}
        implied = {unit for unit in self.dropped if unit.layer in blocks and unit.kind is not Kind.BLOCK}
        if implied:
            object.__setattr__(self, "dropped", self.dropped - implied)

    @classmethod
    def parent(cls, depth: int) -> "Architecture":
        """The architecture that keeps everything."""
        return cls(depth)

    def drop(self, *units: Unit) -> "Architecture":
        """This architecture with `units` dropped too."""
        return Architecture(self.depth, self.dropped | set(units))

    def restore(self, *units: Unit) -> "Architecture":
        """This architecture with exactly these entries of `dropped` kept again."""
        return Architecture(self.depth, self.dropped - set(units))

    def drops(self, unit: Unit) -> bool:
        """Whether `unit` is gone, by itself or with its block."""
        return unit in self.dropped or Unit(unit.layer, Kind.BLOCK) in self.dropped

    def keeps(self, layer: int, kind: Kind) -> bool:
        """Whether the unit of that kind in that layer is still there."""
        return not self.drops(Unit(layer, kind))

    def removed_blocks(self) -> tuple[int, ...]:
        """Layers whose whole block is gone, in order."""
        return tuple(sorted(unit.layer for unit in self.dropped if unit.kind is Kind.BLOCK))

    def merge_blocks(self) -> "Architecture":
        """Blocks with both units dropped written as removed blocks: the same model where no norm is left over."""
        both = [
            layer
            for layer in range(self.depth)
            if not self.keeps(layer, Kind.ATTENTION) and not self.keeps(layer, Kind.MLP)
        ]
        return self.drop(*(Unit(layer, Kind.BLOCK) for layer in both))

    @property
    def words(self) -> str:
        """One word per block, as EvoPress writes patterns: `attn+mlp attn mlp none removed`."""
        removed = set(self.removed_blocks())
        return " ".join(
            _REMOVED if layer in removed else _WORDS[self.keeps(layer, Kind.ATTENTION), self.keeps(layer, Kind.MLP)]
            for layer in range(self.depth)
        )

    @classmethod
    def from_words(cls, text: str) -> "Architecture":
        """Read what `words` writes.

        Raises:
            ArchitectureError: on a word that is none of them.
        """
        meaning = {word: kept for kept, word in _WORDS.items()}
        dropped: set[Unit] = set()
        words = text.split()
        for layer, word in enumerate(words):
            if word == _REMOVED:
                dropped.add(Unit(layer, Kind.BLOCK))
            elif word in meaning:
                kept = zip((Kind.ATTENTION, Kind.MLP), meaning[word], strict=True)
                dropped |= {Unit(layer, kind) for kind, keep in kept if not keep}
            else:
                known = ", ".join([*meaning, _REMOVED])
                raise ArchitectureError(f"block {layer} reads {word!r}; each word is one of {known}")
        return cls(len(words), frozenset(dropped))

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name this architecture; equal for equal architectures."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """The JSON form: schema version, depth and the dropped units by name."""
        return {
            "schema_version": SCHEMA_VERSION,
            "depth": self.depth,
            "dropped": [str(unit) for unit in sorted(self.dropped)],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Architecture":
        """Read what `to_json` writes.

        Raises:
            ArchitectureError: on another schema version, missing or unknown keys, or units out of range.
        """
        if not isinstance(document, dict) or set(document) != {"schema_version", "depth", "dropped"}:
            raise ArchitectureError("an architecture has exactly the keys schema_version, depth and dropped")
        if document["schema_version"] != SCHEMA_VERSION:
            raise ArchitectureError(
                f"schema_version {document['schema_version']!r} is not {SCHEMA_VERSION}; use the nas that wrote it"
            )
        depth, dropped = document["depth"], document["dropped"]
        if not isinstance(depth, int) or not isinstance(dropped, list):
            raise ArchitectureError("depth is an integer and dropped a list of unit names such as attention.3")
        return cls(depth, _parse_all(dropped))


def _parse_all(names: Iterable[Any]) -> frozenset[Unit]:
    return frozenset(Unit.parse(str(name)) for name in names)
