"""Taking units out of a model."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "dropped": ["Form"],
        "prune": ["PARENT_CONFIG", "RECORD", "apply", "architecture_of", "check_fits"],
    },
)
