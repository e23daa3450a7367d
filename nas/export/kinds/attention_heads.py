"""Graphs with fewer heads are exported so: the number of heads is in many places."""

from nas.export.kinds.own_export import OwnExport
from search_spaces.kinds.attention_heads import KIND

EDIT = OwnExport(KIND.name)
