"""How redundant the parts of a model are, and the tokens that flow through them."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "channel_orders": [
            "DEFAULT_CRITERION",
            "compute_orders_digest",
            "copy_channel_orders",
            "find_cut_modules",
            "order_channels",
        ],
        "criteria": ["ActivationNorm", "CRITERIA", "Criterion", "Fluctuation"],
        "expert_saliency": ["order_experts"],
        "input_scales": ["calibrate_inputs", "copy_input_scales"],
        "observer": ["Observer"],
        "redundancy": ["Redundancy", "RedundancyObserver", "measure_redundancy"],
        "rounding": ["RoundingLoss", "measure_rounding"],
        "traversal_state": ["TraversalState"],
        "token_redundancy": ["TokenObserver", "TokenRedundancy", "measure_token_redundancy"],
        "traversal": ["ObservedBatch", "run_in_turn", "run_together"],
    },
)
