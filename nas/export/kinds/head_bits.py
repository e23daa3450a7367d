"""Graphs in which the head has weights of fewer bits."""

from nas.export.kinds.quantised_part import QuantisedPartEdit
from search_spaces.kinds import Kind

EDIT = QuantisedPartEdit(Kind.HEAD)
