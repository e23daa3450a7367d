"""The parent model: how it is found and read, and the sizes of its blocks."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "parent": ["ParentModel", "load_parent_model"],
        "reference_models": ["find_reference", "reference_names"],
    },
)
