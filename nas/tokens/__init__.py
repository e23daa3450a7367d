"""What `--tokens` means: the schedules to search, the strategies that select tokens, their description."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "describe": ["describe_schedule"],
        "long_texts": ["build_long_evaluator", "needs_long_texts"],
        "profiled_schedules": ["choose_best_reduction", "choose_profiled"],
        "space": [
            "check_workload",
            "choose_default_reduction",
            "count_droppable",
            "build_candidate_evaluator",
            "build_evaluator_of_space",
            "build_evaluator_with_tokens",
            "build_snapping",
            "keep_tokens_only",
            "add_tokens",
            "choose_workload_with_tokens",
        ],
    },
)
