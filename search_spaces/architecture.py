"""An architecture: one immutable choice of level for every unit of a parent."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from search_spaces.errors import ArchitectureError
from search_spaces.tokens import THOUSAND, Reduction, Schedule, Stage
from search_spaces.unit import Kind, Unit, implies

SCHEMA_VERSION = 1  # without token reduction, as the first release wrote it
TOKENS_VERSION = 2
_WORDS = {(True, True): "attn+mlp", (True, False): "attn", (False, True): "mlp", (False, False): "none"}
_REMOVED = "removed"
_KEYS = {"schema_version", "depth", "dropped"}


@dataclass(frozen=True)
class Architecture:
    """Which units of a parent with `depth` blocks are dropped. Pure data, hashable, JSON.

    A dropped unit contributes nothing to the residual stream; in a post-norm model its norm stays. A dropped
    block is gone with its norms, so its attention and MLP are not listed beside it. Dropped token units make the
    token-drop schedule; those that others imply are not listed. `reduction` says how tokens are chosen, and is
    None where none are dropped.
    """

    depth: int
    dropped: frozenset[Unit] = frozenset()
    reduction: Reduction | None = None

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
        tokens = {unit for unit in self.dropped if unit.kind is Kind.TOKENS}
        implied = {unit for unit in implied if unit.kind is not Kind.TOKENS} | (tokens - _telling(tokens))
        if implied:
            object.__setattr__(self, "dropped", self.dropped - implied)
        chosen = (self.reduction or Reduction()) if tokens else None
        if chosen != self.reduction:
            object.__setattr__(self, "reduction", chosen)

    @classmethod
    def parent(cls, depth: int) -> "Architecture":
        """The architecture that keeps everything."""
        return cls(depth)

    def drop(self, *units: Unit) -> "Architecture":
        """This architecture with `units` dropped too."""
        return Architecture(self.depth, self.dropped | set(units), self.reduction)

    def restore(self, *units: Unit) -> "Architecture":
        """This architecture with exactly these entries of `dropped` kept again."""
        return Architecture(self.depth, self.dropped - set(units), self.reduction)

    def drops(self, unit: Unit) -> bool:
        """Whether `unit` is gone, by itself, with its block, or as part of a token step at least as large."""
        if unit.kind is Kind.TOKENS:
            return any(implies(other, unit) for other in self.dropped)
        return unit in self.dropped or Unit(unit.layer, Kind.BLOCK) in self.dropped

    def keeps(self, layer: int, kind: Kind) -> bool:
        """Whether the unit of that kind in that layer is still there."""
        return not self.drops(Unit(layer, kind))

    @property
    def tokens(self) -> Schedule:
        """The token-drop schedule; without stages where no tokens are dropped."""
        stages = (Stage(unit.layer, unit.permille) for unit in self.dropped if unit.kind is Kind.TOKENS)
        return Schedule(tuple(sorted(stages)), self.reduction or Reduction())

    @property
    def structure(self) -> "Architecture":
        """This architecture with all tokens."""
        return Architecture(self.depth, frozenset(unit for unit in self.dropped if unit.kind is not Kind.TOKENS))

    def with_tokens(self, schedule: Schedule) -> "Architecture":
        """This architecture's structure with another schedule.

        Raises:
            ArchitectureError: more stages than blocks, or one after the last block.
        """
        if len(schedule.stages) > self.depth:
            raise ArchitectureError(
                f"{len(schedule.stages)} stages ({schedule}) are more than the {self.depth} blocks; leave some out"
            )
        units = {Unit(s.block, Kind.TOKENS, s.permille) for s in schedule.stages if s.permille < THOUSAND}
        return Architecture(self.depth, self.structure.dropped | units, schedule.reduction)

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
        """One word per block, as EvoPress writes patterns: `attn+mlp attn mlp none removed`.

        Where a stage of the token schedule begins, its ratio follows: `attn+mlp@0.5`.
        """
        removed = set(self.removed_blocks())
        begins = {stage.block: f"@{stage.ratio:g}" for stage in self.tokens.stages}
        return " ".join(
            (_REMOVED if layer in removed else _WORDS[self.keeps(layer, Kind.ATTENTION), self.keeps(layer, Kind.MLP)])
            + begins.get(layer, "")
            for layer in range(self.depth)
        )

    @classmethod
    def from_words(cls, text: str) -> "Architecture":
        """Read what `words` writes; tokens are chosen in the usual way, which the words do not tell.

        Raises:
            ArchitectureError: on a word that is none of them.
        """
        meaning = {word: kept for kept, word in _WORDS.items()}
        dropped: set[Unit] = set()
        words = text.split()
        for layer, (word, at, ratio) in enumerate(word.partition("@") for word in words):
            if at:
                dropped.add(Unit.parse(f"{Kind.TOKENS}.{layer}={ratio}"))
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
        """The JSON form: schema version, depth, the dropped units by name and, with token units, the reduction."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "depth": self.depth,
            "dropped": [str(unit) for unit in sorted(self.dropped)],
        }
        if self.reduction is None:
            return document
        return {**document, "schema_version": TOKENS_VERSION, "reduction": self.reduction.to_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Architecture":
        """Read what `to_json` writes.

        Raises:
            ArchitectureError: on another schema version, missing or unknown keys, or units out of range.
        """
        if not isinstance(document, dict) or not _KEYS <= set(document) <= {*_KEYS, "reduction"}:
            raise ArchitectureError(
                "an architecture has exactly the keys schema_version, depth and dropped, and reduction with tokens"
            )
        version = TOKENS_VERSION if "reduction" in document else SCHEMA_VERSION
        if document["schema_version"] != version:
            raise ArchitectureError(
                f"schema_version {document['schema_version']!r} is not {version}; use the nas that wrote it"
            )
        depth, dropped = document["depth"], document["dropped"]
        if not isinstance(depth, int) or not isinstance(dropped, list):
            raise ArchitectureError("depth is an integer and dropped a list of unit names such as attention.3")
        reduction = Reduction.from_json(document["reduction"]) if "reduction" in document else None
        return cls(depth, _parse_all(dropped), reduction)


def _parse_all(names: Iterable[Any]) -> frozenset[Unit]:
    return frozenset(Unit.parse(str(name)) for name in names)


def _telling(tokens: set[Unit]) -> set[Unit]:
    """The token units that no other one implies."""
    return {unit for unit in tokens if not any(other != unit and implies(other, unit) for other in tokens)}
