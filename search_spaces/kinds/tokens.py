"""Tokens: from a block on, a share of those that may be dropped is left."""

from dataclasses import dataclass

from search_spaces.kinds.kind import Kind
from search_spaces.kinds.share import ShareKind


@dataclass(frozen=True)
class TokensKind(ShareKind):
    """Levels are shares: `tokens.3=0.5` leaves at most half of the droppable tokens to block 3 and those after it.

    So a level implies every one of the same or a later block that leaves more.
    """

    @property
    def cumulative(self) -> bool:
        """Tokens that were dropped do not come back."""
        return True

    def implies(self, layer: int, value: int, other_layer: int, other_value: int) -> bool:
        """A smaller share, from an earlier block on."""
        return layer <= other_layer and value <= other_value


KIND = TokensKind("tokens", Kind.TOKENS, structural=False, default=False)
