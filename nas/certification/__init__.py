"""The final selection: candidates are exported and measured, and the winner is certified."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "run": ["CertificationRun"],
        "search_context": ["SearchContext"],
        "trained": ["FINALISTS", "TrainedCandidate"],
    },
)
