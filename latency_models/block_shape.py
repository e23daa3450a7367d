"""The sizes of one block: what its attention and its MLP read, compute and keep. No weights, no framework."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from latency_models.workload import Phase, Workload
from search_spaces.kinds import BEHIND, KNOWN_PARTS, Kind


@dataclass(frozen=True)
class Load:
    """What a part of a block works on: the tokens of a workload, `hidden` elements each, and how far a token sees.

    Attributes:
        causal: whether a token sees only earlier ones, of those within the `window`; None: all of them.
    """

    hidden: int
    causal: bool
    window: int | None
    workload: Workload

    @property
    def tokens(self) -> int:
        """New tokens of all sequences together."""
        return self.workload.tokens

    def count_reached(self, length: int) -> int:
        """How many of the last `length` tokens the window shows."""
        return length if self.window is None else min(length, self.window)

    @property
    def pairs(self) -> float:
        """Pairs (query, key) of one sequence: all, or the causal ones within the window."""
        new, past = self.workload.sequence, self.workload.past
        if not self.causal:
            return float(new * (new + past))
        window = self.window or new + past
        # Query i of the new tokens sees min(past + i + 1, window) keys.
        full = max(0, min(new, window - past))  # queries that still see everything
        return full * past + full * (full + 1) / 2 + (new - full) * window


@dataclass(frozen=True)
class AttentionShape:
    """What mixes the tokens in a block: attention over pairs of tokens, or a recurrence that carries a state along.

    Attributes:
        weights: matrix parameters; a token is multiplied with each once.
        heads: how many scores a pair of tokens has; 0 where no pairs are computed.
        pair: multiply-adds of a pair of tokens: of each head a score, and a share of the values.
        cached: elements that are kept of each token: keys and values, or what they are made from (MLA).
        state: elements that a sequence keeps whatever its length: recurrent states and those of short convolutions.
        extra: multiply-adds of a token beyond one for each weight, such as those with the state.
        past: multiply-adds of each token of the past, where its keys and values are made again from what was kept.
        precision: of its weights, its arithmetic and what it moves; None: the target's.
        held: how many tokens of the past it keeps at most; None: as many as its window, or the past, has. New tokens
            are compared with each other all the same, and what is out of sight is masked.

    Example:
        >>> AttentionShape(weights=4 * 64 * 64, heads=4, pair=2 * 64, cached=2 * 64).mixes_tokens
        True
    """

    mixes_tokens: ClassVar[bool] = True
    kernels: ClassVar[int] = 6  # fused operators that a runtime launches

    weights: int
    heads: int
    pair: int
    cached: int
    state: int = 0
    extra: int = 0
    past: int = 0
    precision: str | None = None
    held: int | None = None

    def __post_init__(self) -> None:
        if min(self.weights, self.heads, self.pair, self.cached, self.state, self.past, self.held or 0) < 0:
            raise ValueError(f"not the shape of an attention: {self}")

    @property
    def words(self) -> str:
        """What it is, where a model has unlike ones."""
        return "over pairs" if self.pair else "recurrent"

    def count_groups(self) -> int:
        """Groups of heads that share keys and values: a pair takes as much of every head as is kept of each group."""
        return max(1, round(self.heads * self.cached / self.pair)) if self.pair else 1

    def count_flops(self, load: Load) -> float:
        """Operations, two per multiply-add.

        Scores and values count the pairs of tokens that a fused kernel computes: all of them, or the causal half,
        within the block's window. A recurrence works on each token alone.
        """
        pairs, past = load.workload.batch * self._bound(load).pairs, self._count_past(load)
        return 2 * (load.tokens * (self.weights + self.extra) + past * self.past) + 2 * pairs * self.pair

    def count_read(self, load: Load) -> int:
        """Parameters that are read."""
        return self.weights

    def count_moved(self, load: Load) -> int:
        """Elements read and written, with its norm: keys and values of the past once, a recurrence's state twice."""
        held = self._count_past(load) * self.cached + 2 * load.workload.batch * self.state
        return load.tokens * (4 * load.hidden + self.pair + self.cached) + held

    def count_cached(self, load: Load) -> int:
        """Elements that one sequence keeps at the end of the workload; without a cache (`forward`) none."""
        if load.workload.phase is Phase.FORWARD:
            return 0
        return self.state + self.cached * self._count_kept(load, load.workload.past + load.workload.sequence)

    def count_alive(self, load: Load) -> int:
        """Elements that are alive at once beside the residual stream: queries, keys, values, their sum, the scores."""
        workload = self._bound(load).workload
        scores = self.heads * (workload.past + workload.sequence)
        return load.tokens * (self.pair + self.cached) + load.tokens * scores

    def _count_past(self, load: Load) -> int:
        return load.workload.batch * self._count_kept(load, load.workload.past)

    def _count_kept(self, load: Load, length: int) -> int:
        """How many of so many tokens are kept."""
        reached = load.count_reached(length)
        return reached if self.held is None else min(reached, self.held)

    def _bound(self, load: Load) -> Load:
        """With the past that is kept."""
        if self.held is None:
            return load
        past = min(load.workload.past, self.held)
        return replace(load, workload=replace(load.workload, past=past))


@dataclass(frozen=True)
class CrossAttentionShape:
    """What brings the states of an encoder into a block: queries of the block's tokens, keys and values of the source.

    The source has as many tokens as the block sees, new and past, where a model does not say how many. While tokens
    are decoded, its keys and values are in the cache already.

    Attributes:
        queries: matrix parameters that each of the block's tokens is multiplied with: of queries and output.
        keys: matrix parameters that each token of the source is multiplied with: of keys and values.
        heads: how many scores a pair of tokens has.
        pair: multiply-adds of a pair of tokens: of each head a score, and a share of the values.
        cached: elements that are kept of each token of the source.
        source: tokens of a source whose number is fixed, as that of an audio encoder.
        precision: of its weights, its arithmetic and what it moves; None: the target's.

    Example:
        >>> CrossAttentionShape(queries=2 * 64 * 64, keys=2 * 64 * 64, heads=4, pair=2 * 64, cached=2 * 64).weights
        16384
    """

    mixes_tokens: ClassVar[bool] = False  # with those of its block
    kernels: ClassVar[int] = 6
    words: ClassVar[str] = "over the source"

    queries: int
    keys: int
    heads: int
    pair: int
    cached: int
    source: int | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        if min(self.queries, self.keys, self.heads, self.pair, self.cached) < 0 or self.source == 0:
            raise ValueError(f"not the shape of a cross-attention: {self}")

    @property
    def weights(self) -> int:
        """All matrix parameters."""
        return self.queries + self.keys

    def count_flops(self, load: Load) -> float:
        """Operations, two per multiply-add."""
        source = self._count_source(load)
        projected = 0 if self._is_cached(load) else load.workload.batch * source
        return 2 * (load.tokens * self.queries + projected * self.keys) + 2 * load.tokens * source * self.pair

    def count_read(self, load: Load) -> int:
        """Parameters that are read."""
        return self.queries if self._is_cached(load) else self.weights

    def count_moved(self, load: Load) -> int:
        """Elements read and written, with its norm: the source's states where keys and values are made of them."""
        states = 0 if self._is_cached(load) else load.hidden
        source = load.workload.batch * self._count_source(load)
        return load.tokens * (4 * load.hidden + self.pair) + source * (self.cached + states)

    def count_cached(self, load: Load) -> int:
        """Elements that one sequence keeps of its source; without a cache (`forward`) none."""
        return 0 if load.workload.phase is Phase.FORWARD else self._count_source(load) * self.cached

    def count_alive(self, load: Load) -> int:
        """Elements that are alive at once beside the residual stream: queries, keys, values, their sum, the scores."""
        source = self._count_source(load)
        return load.tokens * (self.pair + self.heads * source) + load.workload.batch * source * self.cached

    def _count_source(self, load: Load) -> int:
        return self.source or load.workload.past + load.workload.sequence

    def _is_cached(self, load: Load) -> bool:
        return load.workload.phase is Phase.DECODE


@dataclass(frozen=True)
class MlpShape:
    """The MLP of a block: what every token goes through, and of a mixture the experts that it may go through.

    Attributes:
        dense: matrix parameters that every token is multiplied with: layers, shared experts, the router.
        inner: elements between the matrices for one token, all that run together.
        experts, expert: how many routed experts there are, and the matrix parameters of one.
        active: how many of them run for a token; where all run and most are weighted with zero, all.
        extra: multiply-adds of a token beyond one for each of those weights.
        precision: of its weights, its arithmetic and what it moves; None: the target's.

    Example:
        >>> MlpShape(dense=2 * 64 * 256, inner=256).find_width(hidden=64)
        (256, False)
    """

    mixes_tokens: ClassVar[bool] = False
    kernels: ClassVar[int] = 4
    cached: ClassVar[int] = 0

    dense: int
    inner: int
    experts: int = 0
    expert: int = 0
    active: int = 0
    extra: int = 0
    precision: str | None = None

    def __post_init__(self) -> None:
        if min(self.dense, self.inner, self.experts, self.expert) < 0 or not 0 <= self.active <= self.experts:
            raise ValueError(f"not the shape of an MLP: {self}")

    @property
    def weights(self) -> int:
        """All matrix parameters."""
        return self.dense + self.experts * self.expert

    @property
    def words(self) -> str:
        """What it is, where a model has unlike ones."""
        return f"{self.active} of {self.experts} experts" if self.experts else "dense"

    def find_width(self, hidden: int) -> tuple[int, bool]:
        """(neurons, gated) of the MLP, or of one expert of a mixture.

        A gated one has three matrices of hidden size by neurons, any other two; what lies between the matrices is
        twice as wide as the MLP where it is gated.
        """
        weights, inner = (self.expert, self.inner / max(1, self.active)) if self.experts else (self.dense, self.inner)
        gated = inner > 0 and round(2 * weights / hidden / inner) == 3
        return max(1, round(weights / hidden / (3 if gated else 2))), gated

    def count_flops(self, load: Load) -> float:
        """Operations, two per multiply-add; of a mixture, of the experts that run."""
        return 2 * load.tokens * (self.dense + self.extra + self.expert * self.active)

    def count_read(self, load: Load) -> int:
        """Parameters that are read; of a mixture, of the experts that the tokens choose, if each chooses others."""
        return self.dense + self.expert * min(self.experts, load.tokens * self.active)

    def count_moved(self, load: Load) -> int:
        """Elements read and written, with its norm."""
        return load.tokens * (4 * load.hidden + 2 * self.inner)

    def count_cached(self, load: Load) -> int:
        """Nothing is kept of a token."""
        return 0

    def count_alive(self, load: Load) -> int:
        """Elements that are alive at once beside the residual stream."""
        return load.tokens * self.inner


@dataclass(frozen=True)
class LinearShape:
    """One matrix: in the place of a part, or the head.

    Attributes:
        weights: parameters; a token is multiplied with each once.
        precision: of its weights, its arithmetic and what it moves; None: the target's.
    """

    mixes_tokens: ClassVar[bool] = False
    kernels: ClassVar[int] = 2  # with its norm
    cached: ClassVar[int] = 0
    words: ClassVar[str] = "linear"

    weights: int
    precision: str | None = None

    def count_flops(self, load: Load) -> float:
        """Operations, two per multiply-add."""
        return 2 * load.tokens * self.weights

    def count_read(self, load: Load) -> int:
        """Parameters that are read."""
        return self.weights

    def count_moved(self, load: Load) -> int:
        """Elements read and written, with its norm."""
        return load.tokens * 4 * load.hidden

    def count_cached(self, load: Load) -> int:
        """Nothing is kept of a token."""
        return 0

    def count_alive(self, load: Load) -> int:
        """Elements that are alive at once beside the residual stream: what it writes."""
        return load.tokens * load.hidden


Part = AttentionShape | CrossAttentionShape | MlpShape | LinearShape


@dataclass(frozen=True)
class BlockShape:
    """One block: of each kind of part its shape; None where there is none. Or what follows the blocks: a head.

    Example:
        >>> BlockShape(None, MlpShape(dense=2 * 64 * 256, inner=256)).mlp.weights
        32768
    """

    attention: AttentionShape | LinearShape | None
    mlp: MlpShape | LinearShape | None
    head: LinearShape | None = None
    cross_attention: CrossAttentionShape | None = None

    @cached_property
    def parts(self) -> dict[Kind, Part]:
        """The parts that there are, in the order in which they run; the fields are called as the kinds are."""
        shapes: dict[Kind, Part | None] = {
            kind: getattr(self, kind.replace("-", "_")) for kind in (*KNOWN_PARTS, *BEHIND)
        }
        return {kind: part for kind, part in shapes.items() if part is not None}

    def to_json(self) -> dict[str, Any]:
        """The JSON form; of a precision only where it is not the target's."""
        return {
            str(kind): {name: value for name, value in asdict(part).items() if value is not None}
            for kind, part in self.parts.items()
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "BlockShape":
        """Read what `to_json` writes of a block as a parent has it."""
        attention, mlp, cross = (document.get(str(kind)) for kind in (Kind.ATTENTION, Kind.MLP, Kind.CROSS_ATTENTION))
        read = cross and CrossAttentionShape(**cross)
        return cls(attention and AttentionShape(**attention), mlp and MlpShape(**mlp), cross_attention=read)
