"""The sizes of one block: what its attention and its MLP read, compute and keep. No weights, no framework."""

from dataclasses import asdict, dataclass
from typing import Any


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
    """

    weights: int
    heads: int
    pair: int
    cached: int
    state: int = 0
    extra: int = 0
    past: int = 0

    def __post_init__(self) -> None:
        if min(self.weights, self.heads, self.pair, self.cached, self.state, self.past) < 0:
            raise ValueError(f"not the shape of an attention: {self}")

    @property
    def words(self) -> str:
        """What it is, where a model has unlike ones."""
        return "over pairs" if self.pair else "recurrent"


@dataclass(frozen=True)
class MlpShape:
    """The MLP of a block: what every token goes through, and of a mixture the experts that it may go through.

    Attributes:
        dense: matrix parameters that every token is multiplied with: layers, shared experts, the router.
        inner: elements between the matrices for one token, all that run together.
        experts, expert: how many routed experts there are, and the matrix parameters of one.
        active: how many of them run for a token; where all run and most are weighted with zero, all.
        extra: multiply-adds of a token beyond one for each of those weights.
    """

    dense: int
    inner: int
    experts: int = 0
    expert: int = 0
    active: int = 0
    extra: int = 0

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


@dataclass(frozen=True)
class BlockShape:
    """One block."""

    attention: AttentionShape
    mlp: MlpShape

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "BlockShape":
        """Read what `to_json` writes."""
        return cls(AttentionShape(**document["attention"]), MlpShape(**document["mlp"]))
