"""What a person may ask of a search, and the request as it is kept on disk."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "choices": [
            "ADD_BACK",
            "ALL",
            "AUTO",
            "DRAFT",
            "ENGINE",
            "LORA",
            "METHODS",
            "OFF",
            "PROJECTIONS",
            "SEARCH",
            "TOKEN_METHODS",
            "WIDTH_METHODS",
            "TRAINED",
            "check_compensation",
            "check_device",
            "check_goal",
            "check_method",
            "check_precision",
            "check_streaming",
            "check_tokens",
            "check_trained",
            "check_arithmetic",
            "FULL",
        ],
        "quantities": ["Budget", "ByteLimit", "ParameterLimit", "parse_duration"],
        "search_request": [
            "FILE",
            "SearchRequest",
            "check_executor",
            "parse_resources",
            "parse_units",
            "read_search_of",
        ],
    },
)
