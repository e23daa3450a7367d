"""Fewer heads: of the groups of heads that share keys and values a share stays, as in `attention.3:heads=0.5`."""

from search_spaces.kinds.kind import Kind
from search_spaces.kinds.share import ShareKind
from search_spaces.level import THOUSAND


def count_groups(groups: int, value: int) -> int:
    """How many groups of heads a level of `value` thousandths keeps: from one to all of them."""
    return min(groups, max(1, round(groups * value / THOUSAND)))


KIND = ShareKind("attention-heads", Kind.ATTENTION, axis="heads", default=False, counted=True)
