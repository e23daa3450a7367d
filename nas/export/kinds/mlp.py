"""Graphs without some MLPs."""

from nas.export.kinds.dropped_part import DroppedPart

EDIT = DroppedPart()
