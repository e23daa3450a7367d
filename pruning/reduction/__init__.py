"""Fewer tokens from a block on: who may go, who is ranked how, and the hooks that let a model do it."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "hooks": ["BlockEntry", "TokenHooks"],
        "inspection": ["always_kept", "token_hooks", "words_to_trace"],
        "install": ["acting_stages", "check_ranking", "check_reduction", "has_axes", "plan_reduction"],
        "kept_tokens": ["survivors"],
        "layout": ["Group", "TokenLayout", "token_layout"],
        "projections": ["Projections", "Rotary", "read_projections"],
        "ranking_check": ["check_attention"],
        "scores": ["attention_weights"],
        "sequence": ["Sequence", "take"],
    },
)
