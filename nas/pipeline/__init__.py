"""A search from the request to the result folder: prepare, search, certify, write the results."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "dry_run": ["plan"],
    },
)
