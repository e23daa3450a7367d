"""Pictures of a search, of redundant tokens and of the patches that a schedule keeps."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "kept_patches": ["image_survivors", "spread", "takes_whole_images"],
        "search": ["Point", "pareto_figure", "pareto_page", "prediction_figure", "pyplot", "save_redundancy"],
        "tokens": ["save_tokens", "survivors_figure"],
    },
)
