"""A search from the request to the result folder: prepare, search, certify, write the results."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "channel_orders": ["CHANNELS", "restore_orders"],
        "dry_run": ["plan"],
        "precision": ["add_formats"],
    },
)
