"""Attentions with a linear map in their place."""

from pruning.kinds.linear_part import LinearPart
from search_spaces.kinds import Kind

SURGERY = LinearPart(Kind.ATTENTION)
