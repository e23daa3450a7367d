"""Fewer tokens from a block on: who may go, who is ranked how, and the hooks that let a model do it."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "hooks": ["BlockEntry", "TokenHooks"],
        "inspection": ["count_always_kept", "count_words_to_trace", "find_token_hooks"],
        "install": ["check_ranking", "check_reduction", "has_axes", "list_acting_stages", "plan_reduction"],
        "kept_tokens": ["find_survivors"],
        "layout": ["Group", "TokenLayout", "read_token_layout"],
        "projections": ["Projections", "Rotary", "read_projections"],
        "ranking_check": ["check_attention"],
        "scores": ["compute_attention_weights"],
        "sequence": ["Sequence", "take"],
    },
)
