"""MLPs that are dropped."""

from search_spaces.kinds.kind import Kind, UnitKind

KIND = UnitKind("mlp", Kind.MLP)
