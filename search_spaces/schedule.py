"""Token reduction as data: after which blocks how many tokens stay, and how those are chosen."""

import itertools
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from search_spaces.errors import ArchitectureError
from search_spaces.level import THOUSAND, round_to_permille

TOKENS_REVISION = 4  # raised when what a schedule means to a model changes: what was kept from before is made anew


class Scorer(StrEnum):
    """What ranks tokens: attention they receive from the last token, the class token or all; keys; norm; chance.

    `keys` ranks by how unlike a token's key is to the mean key; `random` is the control, drawn once per schedule.

    Example:
        >>> Reduction(Scorer.MEAN).to_json()["scorer"]
        'mean'
    """

    LAST = "last"
    CLASS = "class"
    MEAN = "mean"
    KEYS = "keys"
    NORM = "norm"
    RANDOM = "random"


class Source(StrEnum):
    """Whose queries and keys rank: the next block's, those of the block that just ran, or the vision tower's.

    Example:
        >>> fastv = Reduction(Scorer.LAST, source=Source.PREVIOUS)
    """

    NEXT = "next"
    PREVIOUS = "previous"
    TOWER = "tower"


class Reducer(StrEnum):
    """What becomes of the others.

    - drop: nothing (FastV, PyramidDrop).
    - merge: each goes into its most similar neighbour, weighted by size (ToMe); not where attention is causal.
    - recycle: they are gathered into a few contextual tokens, 10 of 64 of what stays (VisionZip, SparseVLM).

    Example:
        >>> tome = Reduction(Scorer.KEYS, Reducer.MERGE)
    """

    DROP = "drop"
    MERGE = "merge"
    RECYCLE = "recycle"


class Positions(StrEnum):
    """Whether the tokens that stay keep their position numbers (FastV) or are numbered anew (PyramidDrop).

    Example:
        >>> pyramiddrop = Reduction(Scorer.LAST, positions=Positions.COMPACTED)
    """

    KEPT = "kept"
    COMPACTED = "compacted"


@dataclass(frozen=True)
class Reduction:
    """How tokens are chosen and what becomes of the others: the same at every stage of a schedule.

    Example:
        >>> Reduction.from_json({"scorer": "mean"}) == Reduction(Scorer.MEAN)
        True
    """

    scorer: Scorer = Scorer.LAST
    reducer: Reducer = Reducer.DROP
    positions: Positions = Positions.KEPT
    source: Source = Source.NEXT

    def to_json(self) -> dict[str, str]:
        """The four choices by name."""
        return {key: str(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Reduction":
        """Read what `to_json` writes.

        Raises:
            ArchitectureError: on a missing or unknown key or choice.
        """
        try:
            return cls(
                Scorer(document["scorer"]),
                Reducer(document["reducer"]),
                Positions(document["positions"]),
                Source(document["source"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArchitectureError(
                f"{document!r} is no token reduction ({error}); use the nas that wrote it"
            ) from None


@dataclass(frozen=True, order=True)
class Stage:
    """From block `block` on, `permille` of a thousand droppable tokens are left. Block 0: from the start.

    Example:
        >>> int(Stage(3, 500).count_kept(64))
        32
    """

    block: int
    permille: int

    def __post_init__(self) -> None:
        if not 0 < self.permille <= THOUSAND:
            raise ArchitectureError(
                f"ratio {self.permille / THOUSAND:g} is outside (0, 1]; give the share of the tokens that stays"
            )
        if self.block < 0:
            raise ArchitectureError(f"a stage before block {self.block}: blocks are numbered from 0; name one of them")

    @property
    def ratio(self) -> float:
        """The share that is left."""
        return self.permille / THOUSAND

    def count_kept(self, tokens: Any) -> Any:
        """How many of `tokens` droppable ones stay, at least one; whole numbers, so that it can be traced."""
        kept = tokens * self.permille // THOUSAND
        return max(1, kept) if isinstance(kept, int) else kept


@dataclass(frozen=True)
class Schedule:
    """Stages in order of depth, each leaving fewer tokens than the one before it, and how they choose.

    Example:
        >>> Schedule.parse("2=0.5").compute_shares(4)
        (1.0, 1.0, 0.5, 0.5)
    """

    stages: tuple[Stage, ...] = ()
    reduction: Reduction = Reduction()

    def __post_init__(self) -> None:
        blocks = [stage.block for stage in self.stages]
        left = [THOUSAND, *(stage.permille for stage in self.stages)]
        if sorted(set(blocks)) != blocks or any(later > earlier for earlier, later in itertools.pairwise(left)):
            raise ArchitectureError(
                f"stages {self}: blocks must rise and ratios fall; write for example 2=0.5,4=0.25,6=0.125"
            )

    def __str__(self) -> str:
        return ",".join(f"{stage.block}={stage.ratio:g}" for stage in self.stages)

    def compute_shares(self, depth: int) -> tuple[float, ...]:
        """For every block, the share of the droppable tokens that it works on."""
        share, shares, at = 1.0, [], {stage.block: stage.ratio for stage in self.stages}
        for block in range(depth):
            share = at.get(block, share)
            shares.append(share)
        return tuple(shares)

    @classmethod
    def parse(cls, text: str, reduction: Reduction | None = None) -> "Schedule":
        """Read `2=0.5,4=0.25`.

        Raises:
            ArchitectureError: it is none, a ratio is outside (0, 1], blocks do not rise or ratios do not fall.
        """
        stages = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            block, _, ratio = part.partition("=")
            try:
                stages.append(Stage(int(block), round_to_permille(float(ratio))))
            except ValueError:
                raise ArchitectureError(
                    f"stage {part!r} is not BLOCK=RATIO; write for example 2=0.5,4=0.25,6=0.125"
                ) from None
        return cls(tuple(stages), reduction or Reduction())
