"""Pictures of a search, of redundant tokens and of the patches that a schedule keeps."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "kept_patches": ["find_image_survivors", "spread", "takes_whole_images"],
        "search": ["Point", "draw_pareto", "draw_prediction", "import_pyplot", "save_redundancy", "write_pareto_page"],
        "tokens": ["draw_survivors", "save_tokens"],
    },
)
