"""Graphs that send tokens to fewer experts are exported so."""

from nas.export.kinds.own_export import OwnExport
from search_spaces.kinds.mlp_active_experts import KIND

EDIT = OwnExport(KIND.name)
