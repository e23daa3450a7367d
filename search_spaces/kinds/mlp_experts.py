"""Fewer experts: of those of a mixture that tokens are sent to a share stays, as in `mlp.3:experts=0.5`."""

from search_spaces.kinds.kind import Kind
from search_spaces.kinds.share import ShareKind
from search_spaces.level import THOUSAND


def count_experts(experts: int, value: int) -> int:
    """How many experts a level of `value` thousandths keeps: from one to all of them."""
    return min(experts, max(1, round(experts * value / THOUSAND)))


KIND = ShareKind("mlp-experts", Kind.MLP, axis="experts", default=False, counted=True)
