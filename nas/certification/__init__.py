"""The final selection: candidates are exported and measured, and the winner is certified."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "run": ["CertificationRun"],
        "search_context": ["SearchContext"],
    },
)
