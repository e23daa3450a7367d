"""Searches as a service: an HTTP API over jobs that run elsewhere. Nothing here imports torch."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "credentials": ["Role", "TokenFile"],
        "model_roots": ["ModelRoots"],
        "settings": ["Limits", "Settings"],
    },
)
