"""What a transformer is made of, how redundant its parts are, and how they are taken out.

Example:
    >>> from pruning import load, prune, read_anatomy, save
"""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "anatomy.anatomy": ["Anatomy", "read_anatomy"],
        "analysis.redundancy": ["Redundancy"],
        "checkpoint.load_save": ["load", "save"],
        "surgery.prune": ["prune"],
    },
)
