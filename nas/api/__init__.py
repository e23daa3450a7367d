"""Searches as a service: an HTTP API over jobs that run elsewhere. Nothing here imports torch."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "credentials": ["Role", "TokenFile"],
        "model_roots": ["ModelRoots"],
        "settings": ["Limits", "Settings"],
    },
)
