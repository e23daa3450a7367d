"""Fewer experts for each token: of as many as a token is sent to a share stays, as in `mlp.3:active=0.5`."""

from search_spaces.kinds.kind import Kind
from search_spaces.kinds.share import ShareKind

KIND = ShareKind("mlp-active-experts", Kind.MLP, axis="active", default=False, counted=True)
