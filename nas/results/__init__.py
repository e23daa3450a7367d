"""What a search leaves for others: the result, the certificate, the model card."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "certificate": [
            "Certificate",
            "Verdict",
            "compute_confidence",
            "compute_sha256",
            "count_looks",
            "judge",
            "mark_too_busy",
        ],
        "finalists": ["Finalist", "describe_order", "list_rung_steps", "tabulate_finalists"],
        "glossary": [
            "AS_DROPPED",
            "COMPENSATED",
            "RUNNER_UP",
            "add_item_count",
            "explain_percentile",
            "explain_words",
            "join_names",
        ],
        "model_card": ["write_card"],
        "result": ["Entry", "Result", "list_versions"],
    },
)
