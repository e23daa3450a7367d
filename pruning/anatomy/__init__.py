"""The structure of a model: its blocks, what each adds to the residual stream, its positions."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "agreement": ["describe_difference", "first_output"],
        "anatomy": ["Anatomy", "read_anatomy"],
        "contribution": ["BlockAnatomy", "Contribution", "Layout"],
        "copying": ["copy_module"],
        "language_model": ["block_config", "is_vision_language", "language_config", "prompt_image_tokens"],
        "positions": [
            "depends_on_length",
            "forget_lengths",
            "lengths_of_change",
            "longest_sequence",
            "rotaries_by_length",
            "trained_positions",
        ],
        "probe": [
            "Call",
            "TOKENS",
            "as_rows",
            "evaluating",
            "probe_inputs",
            "record_inputs",
            "run_or_refuse",
            "trace_block",
        ],
    },
)
