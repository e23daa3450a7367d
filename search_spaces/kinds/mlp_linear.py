"""MLPs with a linear map in their place."""

from search_spaces.kinds.kind import Kind
from search_spaces.kinds.linear_stand_in import LinearStandInKind

KIND = LinearStandInKind("mlp-linear", Kind.MLP)
