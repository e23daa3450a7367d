"""What a search leaves for others: the result, the certificate, the model card."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "certificate": ["Certificate", "Verdict", "confidence_of", "judge", "sha256", "too_busy"],
        "glossary": ["AS_DROPPED", "RUNNER_UP", "explained", "percentile", "together", "with_items"],
        "model_card": ["write_card"],
        "result": ["Entry", "Result", "versions"],
    },
)
