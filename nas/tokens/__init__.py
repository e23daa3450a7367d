"""What `--tokens` means: the schedules to search, the strategies that select tokens, their description."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "describe": ["in_words"],
        "profiled_schedules": ["profiled", "with_best_reduction"],
        "space": [
            "check_workload",
            "default_reduction",
            "droppable",
            "evaluator_of_candidate",
            "evaluator_with_tokens",
            "snapping",
            "tokens_only",
            "with_tokens",
            "workload_with_tokens",
        ],
    },
)
