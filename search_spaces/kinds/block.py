"""Whole blocks that are dropped, with their norms."""

from search_spaces.kinds.kind import Kind, UnitKind

KIND = UnitKind("block", Kind.BLOCK, swallows=(Kind.ATTENTION, Kind.CROSS_ATTENTION, Kind.MLP))
