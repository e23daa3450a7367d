"""Attentions with a linear map in their place, which has no key-value cache."""

from search_spaces.kinds.kind import Kind
from search_spaces.kinds.linear_stand_in import LinearStandInKind

KIND = LinearStandInKind("attention-linear", Kind.ATTENTION)
