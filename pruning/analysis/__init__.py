"""How redundant the parts of a model are, and the tokens that flow through them."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "redundancy": ["Redundancy", "measure_redundancy"],
        "rounding": ["RoundingLoss", "measure_rounding"],
        "token_redundancy": ["TokenRedundancy", "measure_token_redundancy"],
    },
)
