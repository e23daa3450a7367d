"""How redundant the parts of a model are, and the tokens that flow through them."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "redundancy": ["Redundancy", "measure_redundancy"],
        "token_redundancy": ["TokenRedundancy", "measure_token_redundancy"],
    },
)
