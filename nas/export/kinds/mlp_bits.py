"""Graphs in which some MLPs have weights of fewer bits."""

from nas.export.kinds.quantised_part import QuantisedPartEdit
from search_spaces.kinds import Kind

EDIT = QuantisedPartEdit(Kind.MLP)
