"""How each kind of unit changes an exported graph: every module of this package with an `EDIT`, for the kind of its
name."""

from nas.export.kinds.edit import Edit
from search_spaces.kinds import discover

EDITS: dict[str, Edit] = discover(__path__, __name__, "EDIT")

__all__ = ["EDITS", "Edit"]
