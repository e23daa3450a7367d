"""Healing: what is left of a pruned model is trained for a while to give what its parent gives."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "card": ["list_qualities"],
        "recipe": ["Recipe"],
        "record": ["Healed"],
    },
)
