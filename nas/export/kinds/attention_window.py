"""Graphs with windows of attention are exported so: masks and caches are of another length."""

from nas.export.kinds.own_export import OwnExport
from search_spaces.kinds.attention_window import KIND

EDIT = OwnExport(KIND.name)
