"""Graphs with fewer experts are exported so: the number of experts is in many places."""

from nas.export.kinds.own_export import OwnExport
from search_spaces.kinds.mlp_experts import KIND

EDIT = OwnExport(KIND.name)
