"""Compensation: what is left of a model learns to stand in for what was taken out, in closed form."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "candidate_builder": ["CandidateBuilder", "CompensationPlan", "compensation_of"],
        "compensator": ["Compensator", "put"],
        "method": ["METHODS"],
    },
)
