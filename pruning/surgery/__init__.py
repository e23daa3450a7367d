"""Taking units out of a model."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "block_library": ["BlockLibrary"],
        "block_removal": ["number_block", "remove_blocks"],
        "channel_order": ["Order", "ChannelOrder", "Cut", "get_channel_order", "keep_channel_order"],
        "config_blocks": ["find_depth_name"],
        "dropped": ["Dropped", "Form"],
        "input_scale": ["choose_input_scale", "get_input_scale", "keep_input_scale"],
        "linear": ["get_weight_matrix", "is_linear", "keep_inputs", "keep_outputs"],
        "linear_stand_in": ["LINEAR", "LinearStandIn", "PassedOn", "find_given"],
        "quantised_linear": [
            "QuantisedLinear",
            "bypass_rounding",
            "loses_nothing",
            "quantise_weights",
            "read_product",
            "round_inputs",
            "round_weights",
        ],
        "prune": ["PARENT_CONFIG", "RECORD", "apply", "check_fits", "read_architecture"],
        "replacement": ["replace_modules"],
        "trained_weights": ["mark_trained", "was_trained"],
    },
)
