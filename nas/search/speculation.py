"""What a draft makes of its parent's speed: greedy decoding in which a draft writes ahead and the parent checks.

A draft writes k tokens, the parent reads all of them in one step, keeps those that it would have written itself, and
adds one of its own. So the text is the parent's, token by token. Where each token is accepted with a probability a,
independently of the others, a round gives (1 - a^(k+1)) / (1 - a) tokens on average. It takes k steps of the draft and
one of the parent (Leviathan, Kalman and Matias, Fast Inference from Transformers via Speculative Decoding, ICML 2023).
"""

from dataclasses import asdict, dataclass
from typing import Any

LONGEST = 16  # tokens of a draft at most


@dataclass(frozen=True)
class Draft:
    """A draft and how it is best used.

    Attributes:
        acceptance: the share of its tokens that are its parent's.
        cost: a step of it over a step of the parent.
        tokens: that it writes ahead in each round; 0 where the parent alone is faster.
        speedup: tokens a second over those of the parent alone, as expected.

    Example:
        >>> draft = Draft.of(acceptance=0.8, cost=0.1)
        >>> draft.tokens, round(draft.speedup, 2)
        (6, 2.47)
    """

    acceptance: float
    cost: float
    tokens: int
    speedup: float

    @classmethod
    def of(cls, acceptance: float, cost: float) -> "Draft":
        """With as many tokens ahead as give the most tokens a second; the fewest of equals."""
        tokens = max(range(LONGEST + 1), key=lambda ahead: expect_speedup(acceptance, cost, ahead))
        return cls(acceptance, cost, tokens, expect_speedup(acceptance, cost, tokens))

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"schema_version": 1, **asdict(self)}


def expect_speedup(acceptance: float, cost: float, tokens: int) -> float:
    """Tokens a second with `tokens` written ahead, over those of the parent alone."""
    written = sum(acceptance**accepted for accepted in range(tokens + 1))
    return written / (1 + tokens * cost)
