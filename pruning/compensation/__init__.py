"""Compensation: what is left of a model learns to stand in for what was taken out, in closed form."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "alignment": ["TokenAlignment"],
        "calibration_pass": ["Adjusted"],
        "candidate_builder": [
            "BIAS",
            "CandidateBuilder",
            "CompensationPlan",
            "CompensationRecord",
            "compute_digest",
            "list_adjusted",
            "get_compensation",
        ],
        "compensator": ["Compensator", "install_adjusted"],
        "method": ["LARGEST_GRAM", "METHODS"],
        "moments": ["Moments"],
        "sites": ["Point", "find_kept_layers", "find_sites"],
        "streams": ["reshape_by_item", "record_streams", "run_trunk", "watch_input"],
    },
)
