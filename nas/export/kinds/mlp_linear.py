"""Graphs with a linear map in the place of some MLPs."""

from nas.export.kinds.linear_part import LinearPartEdit
from search_spaces.kinds import Kind

EDIT = LinearPartEdit(Kind.MLP)
