"""Cross-attentions that are dropped."""

from pruning.kinds.dropped_part import DroppedPart
from search_spaces.kinds import Kind

SURGERY = DroppedPart(Kind.CROSS_ATTENTION)
