"""The structure of a model: its blocks, what each adds to the residual stream, its positions."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "agreement": ["describe_difference", "get_first_output"],
        "anatomy": ["Anatomy", "read_anatomy"],
        "contribution": ["BlockAnatomy", "Contribution", "Layout"],
        "copying": ["copy_module"],
        "encoder_decoder": [
            "count_blocks_in_config",
            "count_words",
            "find_part",
            "read_part_config",
        ],
        "likeness": ["collect_constants", "describe_form"],
        "language_model": [
            "find_block_config",
            "find_word_config",
            "find_image_config",
            "find_language_config",
            "count_prompt_image_tokens",
        ],
        "part": [
            "PART",
            "PIXELS",
            "Part",
            "get_main_input",
            "get_part",
            "get_token_mask",
            "is_encoder_decoder",
            "is_vision_language",
            "prunes_vision",
            "select_part",
        ],
        "nature": ["Nature"],
        "positions": [
            "depends_on_length",
            "forget_lengths",
            "find_lengths_of_change",
            "find_longest_sequence",
            "find_rotaries_by_length",
            "count_trained_positions",
        ],
        "probe": [
            "Arguments",
            "Call",
            "TOKENS",
            "build_probe_run",
            "find_stream",
            "flatten_to_rows",
            "switch_to_eval_mode",
            "make_probe_inputs",
            "record_inputs",
            "run_model_or_refuse",
            "run_or_refuse",
            "trace_block",
        ],
        "vision": ["list_called_modules", "run_tower"],
    },
)
