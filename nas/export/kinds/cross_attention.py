"""Graphs without some cross-attentions."""

from nas.export.kinds.dropped_part import DroppedPart

EDIT = DroppedPart()
