"""Heads with weights of fewer bits."""

from search_spaces.kinds.bits import BitsKind
from search_spaces.kinds.kind import Kind

KIND = BitsKind("head-bits", Kind.HEAD)
