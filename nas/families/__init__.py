"""What of a family of models can be pruned: tried on tiny random models of it."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "outcome": ["EXACT", "NOTHING", "TRIALS", "Outcome"],
        "trials": ["try_config", "try_family"],
    },
)
