"""Attentions with weights of fewer bits."""

from pruning.kinds.quantised_part import QuantisedPart
from search_spaces.kinds import Kind

SURGERY = QuantisedPart(Kind.ATTENTION)
