"""Taking units out of a model."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "block_library": ["BlockLibrary"],
        "dropped": ["Dropped", "Form"],
        "linear": ["is_linear", "keep_inputs", "keep_outputs", "weight_matrix"],
        "prune": ["PARENT_CONFIG", "RECORD", "apply", "architecture_of", "check_fits"],
        "replacement": ["replace_modules"],
    },
)
