"""Compensation: what is left of a model learns to stand in for what was taken out, in closed form."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "calibration_pass": ["Adjusted"],
        "candidate_builder": [
            "CandidateBuilder",
            "CompensationPlan",
            "CompensationRecord",
            "adjusted_of",
            "compensation_of",
        ],
        "compensator": ["Compensator", "put"],
        "method": ["METHODS"],
        "sites": ["Point"],
        "streams": ["record_streams"],
    },
)
