"""Attentions of a decoder to the states of its encoder that are dropped."""

from search_spaces.kinds.kind import Kind, UnitKind

KIND = UnitKind("cross-attention", Kind.CROSS_ATTENTION)
